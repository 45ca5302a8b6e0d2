"""Functions whose code is elsewhere: how they are declared, what is refused, and who is asked to run them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lambent import Engine, FunctionError, InvalidParameterValue
from lambent.configuration import MAXIMUM_VARIABLES_BYTES, RESERVED_VARIABLES, ExecutionEnvironment
from lambent.resources import Functions
from lambent.stored import difference
from lambent.validation import validated

ECHO = """
import asyncio

from lambent.model import Succeeded

class Echo:
    def __init__(self, surroundings):
        self.functions, self.withdrawn, self.called = {}, [], asyncio.Event()
        made.append(self)
    def register(self, function): self.functions[function.name] = function
    def withdraw(self, name): self.withdrawn.append(name)
    def abandon(self): ...
    def start(self, invocation, ended, started, respond):
        started()
        self.called.set()
        variables = self.functions[invocation.function].environment.variables
        ended(Succeeded(b'{"it was": "%s"}' % variables["COLOUR"].encode()))
        return self
    async def close(self): self.functions = None

made = []
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that brings a runtime for the families echo and broken."""
    (tmp_path / "echo_runtime.py").write_text(ECHO)
    (tmp_path / "echo-1.0.dist-info").mkdir()
    (tmp_path / "echo-1.0.dist-info" / "entry_points.txt").write_text(
        "[lambent.runtimes]\necho = echo_runtime:Echo\nsame = echo_runtime:Echo\nbroken = nowhere:Echo\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("echo_runtime", None)


def refused(**options: object) -> str:
    with pytest.raises(InvalidParameterValue) as caught:
        validated(ExecutionEnvironment, {"runtime": "provided.al2023", "code": "x", **options}, "a function")
    return caught.value.message


async def test_code_that_is_elsewhere_is_run_by_the_runtime_of_its_family(installed: None) -> None:
    engine = Engine("memory://")
    name = engine.function_from("./resize", runtime="echo1.0", variables={"COLOUR": "red"}, timeout_seconds=7)
    assert name == "resize"
    async with engine:
        assert await engine.invoke("resize") == {"it was": "red"}
        await engine.update_function("resize", variables={"COLOUR": "blue"})
        assert await engine.invoke("resize") == {"it was": "blue"}
        stored = await engine.get_function("resize")
        assert stored.timeout_seconds == 7
        assert stored.environment == ExecutionEnvironment(
            runtime="echo1.0", code="./resize", variables={"COLOUR": "blue"}
        )


async def test_two_families_of_one_runtime_share_it_and_it_is_closed_with_the_engine(installed: None) -> None:
    from echo_runtime import made

    engine = Engine("memory://")
    engine.function_from("a", runtime="echo1", variables={"COLOUR": "red"})
    engine.function_from("b", runtime="same2", variables={"COLOUR": "green"})
    async with engine:
        assert [await engine.invoke(name) for name in "ab"] == [{"it was": "red"}, {"it was": "green"}]
        await engine.delete_function("b")
        assert made[0].withdrawn == ["b"]
    assert len(made) == 1
    assert made[0].functions is None


@pytest.mark.parametrize("family", ["cobol", "broken"])
async def test_a_runtime_that_nothing_serves_fails_when_it_is_called_and_names_what_to_install(
    installed: None, family: str
) -> None:
    engine = Engine("memory://")
    engine.function_from("report", runtime=f"{family}85")
    async with engine:
        with pytest.raises(FunctionError) as failed:
            await engine.invoke("report")
    assert failed.value.document["errorType"] == "Runtime.InvalidEntrypoint"
    expected = "an entry point 'cobol' of the group 'lambent.runtimes'" if family == "cobol" else "cannot be loaded"
    assert expected in str(failed.value.document["errorMessage"])


async def test_code_that_is_elsewhere_is_fed_by_mappings_and_included_like_any_function(installed: None) -> None:
    from echo_runtime import made

    functions = Functions()
    functions.function_from("pack", runtime="echo1", variables={"COLOUR": "red"})
    functions.map("queue:orders", "pack")
    engine = Engine("memory://")
    orders = engine.queue("orders")
    engine.include(functions)
    async with engine:
        await orders.send({"item": "book"})
        async with asyncio.timeout(10):
            await made[0].called.wait()


def test_a_function_without_a_name_of_its_own_is_refused_by_name() -> None:
    with pytest.raises(InvalidParameterValue, match="name: '' is not allowed"):
        Engine().function_from(".", handler="a.b")


def test_options_of_an_environment_are_none_of_a_callables() -> None:
    with pytest.raises(InvalidParameterValue, match="variables is not an option of a function"):
        Engine().function(name="f", variables={})(lambda event: None)
    with pytest.raises(InvalidParameterValue, match="variabels is not an option of a function; did you mean variables"):
        Engine().function_from("f", variabels={})
    with pytest.raises(InvalidParameterValue, match="boundary='reference' is for callables"):
        Engine().function_from("f", handler="a.b", boundary="reference")


@pytest.mark.parametrize("handler", ["app.handler", "src/app.handler", "a.b.c.d", "index.mjs.run", "Über.x"[1:]])
def test_a_handler_is_a_name_inside_the_codes_folder(handler: str) -> None:
    made = ExecutionEnvironment(runtime="python3.13", code="x", handler=handler)
    assert made.handler == handler


@pytest.mark.parametrize(
    "handler",
    ["../x.y", "../../etc/passwd:y", "/etc/x.y", "a/../../x.y", "a b.c", "-c.d", "ä.b", "a\0.b", "a\\b.c", "a\n"],
)
def test_a_handler_that_points_elsewhere_is_refused(handler: str) -> None:
    assert refused(handler=handler).startswith("handler: ")


def test_python_and_node_need_to_be_told_a_handler() -> None:
    assert "handler is missing" in refused(runtime="python3.13")
    assert "handler is missing" in refused(runtime="nodejs22.x", handler="index")
    assert ExecutionEnvironment(runtime="provided", code="x").family == "provided"


@pytest.mark.parametrize("name", sorted(RESERVED_VARIABLES))
def test_reserved_variables_are_refused_in_awss_words(name: str) -> None:
    message = refused(variables={name: "x", "MINE": "y"})
    if name[0] == "_":
        assert f"'{name}' is no name of a variable" in message
    else:
        assert message.endswith(f"Reserved keys used in this request: {name}")


@pytest.mark.parametrize("name", ["", "A", "1A", "A-B", "A=B", "A B", "Ä1", "A\0"])
def test_a_variable_has_a_name_that_a_shell_would_take(name: str) -> None:
    assert "is no name of a variable" in refused(variables={name: "x"})


def test_all_variables_together_take_four_kilobytes_at_most() -> None:
    least = len('{"AB":""}')
    ExecutionEnvironment(runtime="x", code="x", variables={"AB": "v" * (MAXIMUM_VARIABLES_BYTES - least)})
    message = refused(variables={"AB": "v" * (MAXIMUM_VARIABLES_BYTES - least + 1)})
    assert "exceeded the 4KB limit. Measured: 4097 bytes" in message


@pytest.mark.parametrize(
    "variables",
    [
        {"AB": "canary\0"},
        {"AB": "canary\udc80"},
        {"AB": "canary" * 1000},
        {"AB": b"canary"},
        ["canary"],
        {"A": "canary"},
    ],
)
def test_what_a_variable_holds_is_never_shown(variables: object) -> None:
    assert "canary" not in refused(variables=variables)


def test_a_change_of_variables_is_logged_without_their_values() -> None:
    def function(variables: Mapping[str, str]) -> dict[str, object]:
        return {"environment": {"code": "x", "variables": variables}}

    changes = difference(function({"AB": "canary", "CD": "x"}), function({"AB": "other canary", "CD": "x"}))
    assert changes == {"environment.variables.AB": "changed"}
    assert "canary" not in str(difference({"environment": None}, function({"AB": "canary"})))
    assert "canary" not in repr(ExecutionEnvironment(runtime="x", code="x", variables={"AB": "canary"}))


@pytest.mark.parametrize("runtime", ["", "Python3.13", "3.13", "a b", "../x", "p" * 65])
def test_a_runtime_is_an_identifier(runtime: str) -> None:
    assert refused(runtime=runtime).startswith("runtime: ")


def test_log_levels_go_with_json() -> None:
    assert "go with log_format='JSON'" in refused(application_log_level="DEBUG")


def test_there_are_five_layers_at_most() -> None:
    assert refused(layers=["x"] * 6).startswith("layers: ")


def test_a_reference_to_code_is_text_or_a_path_without_control_characters() -> None:
    assert ExecutionEnvironment(runtime="x", code=Path("a/b")).code == "a/b"  # type: ignore[arg-type]
    for wrong in ("", "a\0b", "a\nb", b"x", 5):
        assert refused(code=wrong).startswith("code: ")
