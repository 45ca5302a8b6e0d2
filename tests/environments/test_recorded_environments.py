"""The rules behind the recorded answers of areas 01 and 14, in environments: context, variables, errors, wrappers.

Each is said in our own words; where the recordings lie beside the repository, ours are held against them, too. Places
that AWS's sandbox has and a machine of one's own has not (/var/task, addresses of a microVM) are compared by name only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lambent import Engine, FunctionError
from tests.conformance.recorded import Recording, Scenarios
from tests.conformance.test_recorded_functions import view
from tests.environments.conftest import PYTHON

AWS = Scenarios("01", "14")
OF_A_SHELL = {"PWD", "OLDPWD", "SHLVL", "TMPDIR", "LC_CTYPE", "PYTHONPATH"}  # as the machine has it, or not at all
PLACES = {"PATH", "LD_LIBRARY_PATH", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_RUNTIME_API"}
PLACES |= {"AWS_XRAY_DAEMON_ADDRESS", "_AWS_XRAY_DAEMON_ADDRESS", "AWS_EXECUTION_ENV", "_HANDLER"}


def declare(engine: Engine, code: Path, handler: str, **options: Any) -> None:
    engine.function_from(code, name="f", runtime=PYTHON, handler=handler, **options)


def variables(found: dict[str, str]) -> dict[str, str]:
    """Without what is a shell's; of places only that there are some."""
    return {name: "" if name in PLACES else value for name, value in found.items() if name not in OF_A_SHELL}


def introspection(answer: Any) -> Any:
    document = json.loads(answer["Payload"]) if isinstance(answer, dict) and "Payload" in answer else answer
    return {**document, "environment": variables(document["environment"])}


async def test_a_function_is_told_its_context_and_variables_with_and_without_a_qualifier(
    engine: Engine, code: Path
) -> None:
    declare(engine, code, "recorded.told", memory_size_mb=1024, variables={"TEST_KEY": "TEST_VAL"})
    async with engine:
        plain, qualified = [await engine.invoke("f", {}, qualifier=each) for each in (None, "$LATEST")]
    assert plain["ctx"]["invoked_function_arn"].endswith(":function:f")
    assert qualified["ctx"]["invoked_function_arn"].endswith(":function:f:$LATEST")
    assert plain["ctx"]["log_stream_name"] == qualified["ctx"]["log_stream_name"]
    assert plain["ctx"]["memory_limit_in_mb"] == "1024"
    environment = plain["environment"]
    assert (environment["AWS_LAMBDA_LOG_STREAM_NAME"], environment["TEST_KEY"]) == (
        plain["ctx"]["log_stream_name"], "TEST_VAL"
    )  # fmt: skip
    assert environment["_X_AMZN_TRACE_ID"] != qualified["environment"]["_X_AMZN_TRACE_ID"]
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert environment[name] == "lambent"  # nobody's: an SDK finds some, and the engine's own stay with it


async def test_an_exception_is_awss_document(engine: Engine, code: Path) -> None:
    declare(engine, code, "recorded.failed")
    async with engine:
        response = await engine.invoke_response("f", {})
    document = json.loads(response.payload)
    assert list(document) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert (document["errorMessage"], document["errorType"]) == ("Failed: some_error_msg", "Exception")
    assert document["requestId"] == response.request_id
    assert response.function_error == "Unhandled"


async def test_a_handler_may_be_in_a_submodule(engine: Engine, code: Path) -> None:
    for name, handler in (("dots", "sub.nested.handler"), ("slashes", "sub/nested.handler")):
        engine.function_from(code, name=name, runtime=PYTHON, handler=handler)
    async with engine:
        assert await engine.invoke("dots", 1) == await engine.invoke("slashes", 1) == {"nested": 1}


async def test_what_is_sent_comes_back(engine: Engine, code: Path) -> None:
    declare(engine, code, "recorded.echoed")
    events: list[Any] = [{"a": [1, "ü"]}, [], "text", 0, 1.5, True, None]
    async with engine:
        assert [await engine.invoke("f", event) for event in events] == events


async def test_a_wrapper_starts_the_runtime_and_one_that_is_not_there_is_an_exit(engine: Engine, code: Path) -> None:
    wrapper = code / "wrapper"
    wrapper.write_text('#!/bin/bash\nexport WRAPPED=yes\nexec "$@"\n')
    wrapper.chmod(0o755)
    for name, path in (("wrapped", wrapper), ("missing", code / "nowhere")):
        engine.function_from(
            code, name=name, runtime=PYTHON, handler="recorded.told", variables={"AWS_LAMBDA_EXEC_WRAPPER": str(path)}
        )
    async with engine:
        assert (await engine.invoke("wrapped", {}))["environment"]["WRAPPED"] == "yes"
        with pytest.raises(FunctionError) as caught:
            await engine.invoke("missing", {})
    assert caught.value.document["errorType"] == "Runtime.ExitError"
    assert str(caught.value.document["errorMessage"]).endswith("Error: Runtime exited with error: exit status 127")


# --------------------------------------------------------------------------- recorded


@AWS.replays("TestLambdaBehavior::test_lambda_cache_local")
async def cache(engine: Engine, code: Path, case: Recording) -> None:
    declare(engine, code, "recorded.counted")
    async with engine:
        answers = [view(await engine.invoke_response("f", {})) for _ in range(2)]
    case.check((case["first_invoke_result"], answers[0]), (case["second_invoke_result"], answers[1]))


@AWS.replays("TestLambdaRuntimesCommon::test_uncaught_exception_invoke")
async def uncaught(engine: Engine, code: Path, case: Recording) -> None:
    declare(engine, code, "recorded.failed")
    async with engine:
        answer = view(await engine.invoke_response("f", {}))
    recorded = {**case["error_result"], "Payload": {**case["error_result"]["Payload"], "stackTrace": []}}
    answer["Payload"] = json.dumps({**json.loads(str(answer["Payload"])), "stackTrace": []})
    case.check((recorded, answer))


@AWS.replays("TestLambdaErrors::test_lambda_runtime_wrapper_not_found")
async def wrapper_not_found(engine: Engine, code: Path, case: Recording) -> None:
    declare(engine, code, "recorded.told", variables={"AWS_LAMBDA_EXEC_WRAPPER": str(code / "nowhere")})
    async with engine:
        case.check((case["invocation_error"], view(await engine.invoke_response("f", {}))))


@AWS.replays("TestLambdaRuntimesCommon::test_introspection_invoke")
async def told(engine: Engine, code: Path, case: Recording) -> None:
    steps = ("invocation_result_payload", "invocation_result_payload_qualified")
    recorded = [introspection(case[name]) for name in steps]
    declare(engine, code, "recorded.told", memory_size_mb=1024, variables={"TEST_KEY": "TEST_VAL"})
    async with engine:
        ours = [introspection(await engine.invoke("f", {}, qualifier=each)) for each in (None, "$LATEST")]
    for theirs, mine in zip(recorded, ours, strict=True):
        mine["environment"].pop("AWS_LAMBDA_LOG_FORMAT", None)  # newer than the recordings
        assert mine["environment"].keys() == theirs["environment"].keys()
        assert mine["ctx"].keys() == theirs["ctx"].keys()


@AWS.replays("TestLambdaBehavior::test_lambda_init_environment")
async def began(engine: Engine, code: Path, case: Recording) -> None:
    declare(engine, code, "recorded.began")
    async with engine:
        mine = variables((await engine.invoke("f", {}))["environment"])
    theirs = variables(case["lambda-init-inspection"]["Payload"]["environment"])
    mine.pop("AWS_LAMBDA_LOG_FORMAT", None)
    theirs.pop("_X_AMZN_TRACE_ID")  # of the invocation; ours has none while it begins
    mine.pop("_X_AMZN_TRACE_ID", None)
    assert mine.keys() == theirs.keys()


REPLAYED = [identity for identity in AWS.cases() if "[provided" not in identity]
"""A compiled runtime's own words for its context and errors are those of its client, of which there is none here."""


@pytest.mark.parametrize("identity", REPLAYED)
async def test_we_answer_what_aws_was_recorded_to_answer(engine: Engine, code: Path, identity: str) -> None:
    scenario: Any = AWS.scenario(identity)
    await scenario(engine, code, AWS.cases()[identity])
