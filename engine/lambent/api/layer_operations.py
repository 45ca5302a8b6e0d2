"""The operations on layers: code is kept, and a layer's document read, changed and written.

Decides the order of that alone: what a layer is, and what is refused, is decided in `layers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lambent.api import layers
from lambent.api.code import Codes, code_of
from lambent.api.decisions import Answer
from lambent.api.layers import Layer
from lambent.api.refusals import invalid
from lambent.engine import Engine
from lambent.stored import LAYER


class LayerOperations:
    """The operations on layers, of an engine that runs. `url` gives where a zip file can be had."""

    def __init__(self, engine: Engine, codes: Codes, url: Callable[[Mapping[str, Any]], str]) -> None:
        self._engine = engine
        self._control = engine.control
        self._codes = codes
        self._url = url

    async def publish(self, params: Mapping[str, Any]) -> Answer:
        name = self._name(params)
        code = await code_of(params["Content"], self._codes)
        if code["kind"] != "zip":
            raise invalid("A layer is a zip file: a folder can be one where a function is declared in code.")
        made: list[tuple[Layer, int]] = []

        def change(body: str | None) -> str:
            layer = Layer(name) if body is None else Layer.read(body)
            made.append((layer, layer.publish(params, code, self._engine.now())))
            return layer.body()

        await self._control.change_kept(LAYER, name, change)
        return self._shown(*made[-1])

    async def get(self, params: Mapping[str, Any]) -> Answer:
        return self._shown(await self._layer(self._name(params)), params["VersionNumber"])

    async def get_by_arn(self, params: Mapping[str, Any]) -> Answer:
        name, number = layers.version_named(params["Arn"], self._engine.settings)
        return self._shown(await self._layer(name), number)

    async def delete(self, params: Mapping[str, Any]) -> Answer:
        """One that is not there is deleted all the same. Its number, and the layer's document, stay."""
        name, number = self._name(params), params["VersionNumber"]
        if number < 1:
            raise invalid("Layer Version Cannot be less than 1")

        def change(body: str | None) -> str:
            layer = Layer(name) if body is None else Layer.read(body)
            layer.versions.pop(str(number), None)
            return layer.body()

        if str(number) in (await self._layer(name)).versions:
            await self._control.change_kept(LAYER, name, change)
        return {}

    async def permit(self, params: Mapping[str, Any]) -> Answer:
        """AddLayerVersionPermission."""
        return await self._changed(params, lambda layer, arn: layer.permit(params, arn, self._engine.new_id))

    async def forbid(self, params: Mapping[str, Any]) -> Answer:
        """RemoveLayerVersionPermission."""

        def change(layer: Layer, arn: str) -> Answer:
            layer.forbid(params, arn, self._engine.new_id)
            return {}

        return await self._changed(params, change)

    async def policy(self, params: Mapping[str, Any]) -> Answer:
        layer = await self._layer(self._name(params))
        return layer.policy(params, self._version_arn(layer.name, params))

    async def _changed(self, params: Mapping[str, Any], change: Callable[[Layer, str], Answer]) -> Answer:
        """One read-change-write of a layer that is there."""
        name, answer = self._name(params), list[Answer]()

        def changed(body: str | None) -> str:
            layer = Layer(name) if body is None else Layer.read(body)
            answer.append(change(layer, self._version_arn(name, params)))
            return layer.body()

        await self._control.change_kept(LAYER, name, changed)
        return answer[-1]

    def _version_arn(self, name: str, params: Mapping[str, Any]) -> str:
        return layers.version_arn(name, params["VersionNumber"], self._engine.settings)

    async def versions(self, params: Mapping[str, Any]) -> Answer:
        return layers.versions_of(await self._layer(self._name(params)), params, self._engine.settings)

    async def list_all(self, params: Mapping[str, Any]) -> Answer:
        return layers.listed((await self.known()).values(), params, self._engine.settings)

    async def known(self) -> dict[str, Layer]:
        """All layers, by name."""
        return {name: Layer.read(body) for name, body in (await self._control.kept(LAYER)).items()}

    async def code_bytes(self) -> int:
        """Of all versions, as they are zipped."""
        found: Iterable[Layer] = (await self.known()).values()
        return sum(each["code"]["size"] for layer in found for each in layer.versions.values())

    async def _layer(self, name: str) -> Layer:
        """One without versions if there is none of this name."""
        return (await self.known()).get(name) or Layer(name)

    def _name(self, params: Mapping[str, Any]) -> str:
        return layers.name_of(params["LayerName"], self._engine.settings)

    def _shown(self, layer: Layer, number: int) -> Answer:
        return layers.shown(layer, number, self._engine.settings, self._url)
