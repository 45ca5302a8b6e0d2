"""Layers: code that functions share, published under a name, each time as a version that stays as it is.

Decides how a layer's versions are numbered and shown, what is refused, and which of them a function may have together
(Lambda API reference: PublishLayerVersion, CreateFunction; developer guide, «Managing Lambda dependencies with
layers»). A function goes on with a version that is deleted. A version's policy is kept and shown, and asks nothing of
anybody: there is one account here. Pure; the code itself is kept as that of functions is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from lambent.api.configurations import iso
from lambent.api.decisions import Answer
from lambent.api.records import page
from lambent.api.refusals import NO_POLICY, conflict, invalid, not_found, not_permitted, stale
from lambent.settings import EngineSettings

_ARN: Final = re.compile(r"arn:aws[a-zA-Z-]*:lambda:([a-z0-9-]+):(\d{12}):layer:([a-zA-Z0-9-_]+)(?::(\d+))?")
_SAID: Final = ("CompatibleArchitectures", "CompatibleRuntimes", "LicenseInfo")


@dataclass(slots=True)
class Layer:
    """All that is kept of a layer. A version has what was said of it, when it was created, and its code."""

    name: str
    last_version: int = 0
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)  # by number, in their order

    def body(self) -> str:
        """It as a document."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, body: str) -> Layer:
        return cls(**json.loads(body))

    def at(self, number: int) -> Mapping[str, Any]:
        """A version. Raises `Refusal`."""
        if number < 1:
            raise invalid("Layer Version Cannot be less than 1")
        if (found := self.versions.get(str(number))) is None:
            raise not_found()
        return found

    def permit(self, params: Mapping[str, Any], arn: str, new_id: Callable[[], str]) -> Answer:
        """Add a statement to a version's policy. Raises `Refusal`."""
        policy, sid = self._policy(params, arn), params["StatementId"]
        if sid in policy["statements"]:
            raise conflict(
                f"The statement id ({sid}) provided already exists. Please provide a new statement id, or remove the "
                "existing statement."
            )
        principal, organisation = params["Principal"], params.get("OrganizationId")
        if organisation is not None and principal != "*":
            raise invalid("OrganizationId: it is given with Principal=*, and only then.")
        statement = {
            "Sid": sid,
            "Effect": "Allow",
            "Principal": principal if principal == "*" else {"AWS": _root(principal)},
            "Action": params["Action"],
            "Resource": arn,
        }
        if organisation is not None:
            statement["Condition"] = {"StringEquals": {"aws:PrincipalOrgID": organisation}}
        policy["statements"][sid], policy["revision"] = statement, new_id()
        return {"Statement": _compact(statement), "RevisionId": policy["revision"]}

    def forbid(self, params: Mapping[str, Any], arn: str, new_id: Callable[[], str]) -> None:
        """Remove a statement from a version's policy. Raises `Refusal`."""
        policy = self._policy(params, arn)
        if not policy["statements"]:
            raise not_found(NO_POLICY)
        if policy["statements"].pop(params["StatementId"], None) is None:
            raise not_found(f"Statement {params['StatementId']} is not found in resource policy.")
        policy["revision"] = new_id()

    def policy(self, params: Mapping[str, Any], arn: str) -> Answer:
        """Raises `Refusal` if there is none."""
        policy = self._policy(params, arn)
        if not policy["statements"]:
            raise not_found(NO_POLICY)
        document = {"Version": "2012-10-17", "Id": "default", "Statement": list(policy["statements"].values())}
        return {"Policy": _compact(document), "RevisionId": policy["revision"]}

    def _policy(self, params: Mapping[str, Any], arn: str) -> dict[str, Any]:
        number = params["VersionNumber"]
        if number < 1:
            raise invalid("Layer Version Cannot be less than 1")
        if (version := self.versions.get(str(number))) is None:
            raise not_found(f"Layer version {arn} does not exist.")
        policy: dict[str, Any] = version.setdefault("policy", {"statements": {}, "revision": ""})
        if params.get("RevisionId") not in (None, policy["revision"]):
            raise stale("GetLayerPolicy")
        return policy

    def publish(self, params: Mapping[str, Any], code: Mapping[str, Any], now: float) -> int:
        """A new version, whose number was never used."""
        said = {name: params[name] for name in _SAID if params.get(name) is not None}
        self.last_version += 1
        version = {"Description": params.get("Description") or "", **said, "created": now, "code": dict(code)}
        self.versions[str(self.last_version)] = version
        return self.last_version


def name_of(given: str, settings: EngineSettings) -> str:
    """The layer that a name or an ARN means. Raises `Refusal`: it is elsewhere."""
    found = _ARN.fullmatch(given)
    if found is None:
        return given
    if found[2] != settings.account_id:
        raise not_permitted("GetLayerVersion", given, settings.account_id)
    if found[1] != settings.region:
        raise not_found()
    return found[3]


def version_named(arn: str, settings: EngineSettings) -> tuple[str, int]:
    """Name and number in a version's ARN. Raises `Refusal`: it is elsewhere."""
    found = _ARN.fullmatch(arn)
    if found is None or found[4] is None:
        raise not_found()
    return name_of(arn, settings), int(found[4])


def shown(layer: Layer, number: int, settings: EngineSettings, url: Callable[[Mapping[str, Any]], str]) -> Answer:
    """A version with its code, as PublishLayerVersion and GetLayerVersion answer."""
    version = layer.at(number)
    code, arn = version["code"], _arn(layer.name, settings)
    content = {"Location": url(code), "CodeSha256": code["sha256"], "CodeSize": code["size"]}
    return {"Content": content, "LayerArn": arn, **_listed(arn, number, version)}


def versions_of(layer: Layer, params: Mapping[str, Any], settings: EngineSettings) -> Answer:
    """ListLayerVersions: the newest first."""
    arn = _arn(layer.name, settings)
    matching = [_listed(arn, int(number), each) for number, each in layer.versions.items() if _fits(each, params)]
    items, marker = page(matching, params, lambda each: [-each["Version"]])
    return {"LayerVersions": items, "NextMarker": marker}


def listed(layers: Iterable[Layer], params: Mapping[str, Any], settings: EngineSettings) -> Answer:
    """ListLayers: each with the newest of its versions that fit."""
    found = []
    for layer in layers:
        arn = _arn(layer.name, settings)
        matching = [(int(number), each) for number, each in layer.versions.items() if _fits(each, params)]
        if matching:
            newest = _listed(arn, *matching[-1])
            found.append({"LayerName": layer.name, "LayerArn": arn, "LatestMatchingVersion": newest})
    items, marker = page(found, params, lambda each: [each["LayerName"]])
    return {"Layers": items, "NextMarker": marker}


def attached(arns: list[str], layers: Mapping[str, Layer], settings: EngineSettings) -> list[dict[str, Any]]:
    """What is kept of a function's layers: those of `layers` (by name) that these ARNs mean. Raises `Refusal`."""
    found: dict[str, dict[str, Any]] = {}
    for arn in arns:
        named = _ARN.fullmatch(arn)
        if named is not None and named[1] != settings.region:
            raise invalid(
                "Layers are not in the same region as the function. Layers are expected to be in region "
                f"{settings.region}."
            )
        if named is not None and named[2] != settings.account_id:
            raise not_permitted("GetLayerVersion", arn, settings.account_id)
        name, number = ("", "") if named is None else (named[3], named[4])
        layer = layers.get(name)
        if layer is None or number not in layer.versions:
            raise invalid(f"Layer version {arn} does not exist.")
        if name in found:
            raise invalid(
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{found[name]['Arn']} and {arn} are versions of the same layer."
            )
        code = layer.versions[number]["code"]
        found[name] = {"Arn": arn, "CodeSize": code["size"], "path": code["path"], "unzipped": code["unzipped"]}
    return list(found.values())


def version_arn(name: str, number: int, settings: EngineSettings) -> str:
    return f"{_arn(name, settings)}:{number}"


def _arn(name: str, settings: EngineSettings) -> str:
    return f"arn:aws:lambda:{settings.region}:{settings.account_id}:layer:{name}"


def _listed(arn: str, number: int, version: Mapping[str, Any]) -> Answer:
    said = {name: version[name] for name in ("Description", *_SAID) if name in version}
    return {"LayerVersionArn": f"{arn}:{number}", "Version": number, "CreatedDate": iso(version["created"]), **said}


def _fits(version: Mapping[str, Any], params: Mapping[str, Any]) -> bool:
    """A version that says nothing fits everything but a wish."""
    runtime, architecture = params.get("CompatibleRuntime"), params.get("CompatibleArchitecture")
    return (runtime is None or runtime in version.get("CompatibleRuntimes", ())) and (
        architecture is None or architecture in version.get("CompatibleArchitectures", ())
    )


def _root(principal: str) -> str:
    """Of an account that is given by its number, or by its root's ARN already."""
    return f"arn:aws:iam::{principal}:root" if principal.isdigit() else principal


def _compact(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"))
