"""What a process is given, and what is kept from it; what its Runtime API hears of whom."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lambent import Engine
from lambent.runtimes import cgroups, launching
from lambent.runtimes.launching import UNPRIVILEGED, isolation
from tests.environments.conftest import PYTHON

CANARY = "canary-of-the-engine"
STALE = "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}"
NEXT = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_an_environment_has_awss_variables_and_none_of_the_engines(
    engine: Engine, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_ENGINE", CANARY)
    engine.function_from(
        code, name="told", handler="app.handler", variables={"MINE": "ü", "TZ": "Europe/Paris"}, memory_size_mb=256
    )
    async with engine:
        found = (await engine.invoke("told", {"do": "environment"}))["variables"]
    assert CANARY not in str(found)
    assert {name: value for name, value in found.items() if not name.startswith(("AWS_LAMBDA_LOG_STREAM", "_X_"))} == {
        "AWS_ACCESS_KEY_ID": "lambent",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{PYTHON}",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_FUNCTION_NAME": "told",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_FORMAT": "Text",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/told",
        "AWS_LAMBDA_RUNTIME_API": found["AWS_LAMBDA_RUNTIME_API"],
        "AWS_REGION": "us-east-1",
        "AWS_SECRET_ACCESS_KEY": "lambent",
        "AWS_SESSION_TOKEN": "lambent",
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
        "_AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1",
        "_AWS_XRAY_DAEMON_PORT": "2000",
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "LAMBDA_TASK_ROOT": str(code),
        "LANG": "en_US.UTF-8",
        "LC_CTYPE": "C.UTF-8",
        "LD_LIBRARY_PATH": f"{code}:{code}/lib",
        "MINE": "ü",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TZ": "Europe/Paris",
        "_HANDLER": "app.handler",
    } | {name: found[name] for name in ("PWD", "OLDPWD", "SHLVL", "TMPDIR") if name in found}


async def test_an_environment_inherits_no_descriptor_session_core_or_privilege(engine: Engine, code: Path) -> None:
    with socket.socket() as ours:
        ours.set_inheritable(True)
        inherited = f"socket:[{os.fstat(ours.fileno()).st_ino}]"
        engine.function_from(code, handler="app.handler", ephemeral_storage_mb=600)
        async with engine:
            found = await engine.invoke("code", {"do": "environment"})
    assert found["folder"] == str(code)
    assert found["session"]
    assert found["core"] == [0, 0]
    assert found["files"] == [1024, 1024]
    assert found["size"] == [600 * 1024 * 1024] * 2
    assert found["address_space"] == list(resource.getrlimit(resource.RLIMIT_AS))
    assert found["umask"] == "0022"
    if isolation().dropping:
        assert found["no_new_privileges"] == "1"
        assert int(found["capabilities"], 16) == 0
    assert inherited not in found["descriptors"]
    assert len([each for each in found["descriptors"] if each.startswith("pipe:")]) == 2
    assert found["descriptors"].count("/dev/null") == 1
    assert not [
        each for each in found["descriptors"] if each.startswith("/") and not each.startswith(("/dev", "/proc"))
    ]


async def test_an_engine_that_is_root_lets_its_functions_be_nobody(engine: Engine, code: Path) -> None:
    (code / "bootstrap").write_text((code / "bootstrap").read_text().replace("event=$body", 'event="\\"$(id -u)\\""'))
    engine.function_from(code, runtime="provided.al2023")
    async with engine:
        found = await engine.invoke("code")
    assert found == (str(UNPRIVILEGED) if isolation().becoming else str(os.getuid()))


async def test_layers_lie_over_each_other_at_opt_and_are_importable(engine: Engine, code: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "python").mkdir(parents=True)
        (tmp_path / name / "python" / "in_layer.py").write_text(f"WHO = {name!r}\n")
        (tmp_path / name / "file").write_text(name)
    (tmp_path / "second" / "python" / "in_layer.py").unlink()
    engine.function_from(code, handler="app.handler", layers=[str(tmp_path / "first"), str(tmp_path / "second")])
    async with engine:
        if isolation().mounting:
            assert await engine.invoke("code", {"do": "layers"}) == {"module": "first", "file": "second"}
        assert "calls" in await engine.invoke("code")


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One whose kernel refuses everything that is tried: nothing can be mounted or dropped."""
    with monkeypatch.context() as patched:
        patched.setattr(launching, "_allowed", lambda launch: False)
        isolation.cache_clear()
        assert len(isolation().gaps) == 2
        yield
    isolation.cache_clear()


async def test_without_mounts_tmpdir_and_search_paths_name_what_is_an_environments_own(
    engine: Engine, code: Path, tmp_path: Path, bare_machine: None
) -> None:
    (tmp_path / "layer" / "python").mkdir(parents=True)
    (tmp_path / "layer" / "python" / "in_layer.py").write_text("WHO = 'layer'\n")
    (code / "bare.py").write_text(
        "import os, tempfile, in_layer\n"
        "def handler(event, context):\n"
        "    with tempfile.NamedTemporaryFile(delete=False) as file: pass\n"
        "    return {'file': file.name, 'module': in_layer.WHO}\n"
    )
    engine.function_from(code, handler="bare.handler", layers=[str(tmp_path / "layer")])
    async with engine:
        found = await engine.invoke("code")
        assert Path(found["file"]).exists()
        assert found["module"] == "layer"
        (finding,) = [each for each in engine.health().findings if each.subject == "environments"]
        assert list(finding.sentences) == [*isolation().gaps, *cgroups.gaps()]
        assert not finding.red
    assert not Path(found["file"]).exists()


async def test_the_context_is_awss(engine: Engine, code: Path) -> None:
    engine.function_from(code, handler="app.handler", timeout_seconds=7)
    async with engine:
        answer = await engine.invoke("code", {"do": "context"}, client_context={"custom": {"a": "b"}})
    assert answer["name"] == "code"
    assert answer["version"] == "$LATEST"
    assert answer["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:code"
    assert answer["memory"] == "128"
    assert answer["group"] == "/aws/lambda/code"
    assert answer["custom"] == {"a": "b"}
    assert 5000 < answer["left"] <= 7000
    assert answer["trace"].startswith("Root=1-")
    assert "[$LATEST]" in answer["stream"]


async def test_what_is_printed_is_never_protocol(engine: Engine, code: Path) -> None:
    """Five megabytes, half a document, bytes that are no UTF-8, a forged END."""
    engine.function_from(code, handler="app.handler", timeout_seconds=20)
    async with engine:
        for text in ('{"half": ', "\xff\xfe\x00\x1b[31m", "END RequestId: 1\nREPORT RequestId: 1\n", "x" * 5_000_000):
            answer = await engine.invoke_response("code", {"do": "print", "text": text}, log_type="Tail")
            assert answer.payload == b"null"
            assert len(answer.log_tail.encode()) <= 4096
        assert "calls" in await engine.invoke("code")


# --------------------------------------------------------------------------- its Runtime API


async def test_no_other_process_is_heard_by_an_environments_runtime_api(engine: Engine, code: Path) -> None:
    """Not this one, and not another environment's: both get 403, and nothing of it is noticed."""
    engine.function_from(code, name="one", handler="app.handler", timeout_seconds=10)
    engine.function_from(code, name="two", handler="app.handler", timeout_seconds=10)
    async with engine:
        port = await engine.invoke("one", {"do": "port"})
        for request in (NEXT, STALE.format(id="x"), "garbage\r\n\r\n"):
            stolen = await engine.invoke("two", {"do": "connect", "port": port, "request": request})
            assert stolen["answer"].startswith("HTTP/1.1 403 Forbidden\r\n")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request.encode())
            assert (await reader.read(1000)).startswith(b"HTTP/1.1 403 Forbidden\r\n")
            writer.close()
        assert "calls" in await engine.invoke("one")


async def test_a_call_out_of_place_of_the_environment_itself_is_refused_and_its_answer_still_counts(
    engine: Engine, code: Path
) -> None:
    (code / "self.py").write_text(
        "import app\n"
        "def handler(event, context):\n"
        "    return app.do_connect({'port': app.do_port(event, context), 'request': event['request']}, context)\n"
    )
    engine.function_from(code, handler="self.handler", timeout_seconds=10)
    calls = [
        (NEXT, 403),
        (STALE.format(id="6ba7b810-9dad-11d1-80b4-00c04fd430c8"), 400),
        (STALE.format(id="%2e%2e%2f"), 400),
        ("POST /2018-06-01/runtime/init/error HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", 403),
        ("DELETE /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("this is not HTTP\r\n\r\n", 400),
        ("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nX: " + "y" * 2_000_000 + "\r\n\r\n", 431),
    ]
    async with engine:
        for call, status in calls:
            request = call.replace("HTTP/1.1\r\n", "HTTP/1.1\r\nConnection: close\r\n", 1)
            answer = (await engine.invoke("code", {"request": request}))["answer"]
            assert answer.startswith(f"HTTP/1.1 {status} "), call[:80]
            assert '"errorType"' in answer, call[:80]


async def test_an_answer_that_comes_twice_or_for_what_is_over_changes_nothing(engine: Engine, code: Path) -> None:
    """A bootstrap that answers each invocation twice, and the one before once more."""
    (code / "bootstrap").write_text(
        (code / "bootstrap")
        .read_text()
        .replace("*) echo", '*) call POST "invocation/$before/response" 1; echo')
        .replace('"$event" ;;', '"$event"; before=$id; call POST "invocation/$id/response" 2 ;;')
    )
    engine.function_from(code, runtime="provided.al2023")
    async with engine:
        for number in range(5):
            assert await engine.invoke("code", {"number": number}) == {"number": number}
