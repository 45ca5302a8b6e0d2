"""`lambent run` and `lambent serve`: an engine served until it is told to end, with Lambda's API or without.

Decides which store it has, how its log looks, what it answers at which address, and when code that changed is loaded
anew. How an engine starts, drains and stops is `Engine.run`'s.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TextIO, cast

import typer

from lambent.arns import DEFAULT_REGION, without_password
from lambent.cli.endpoint import ADDRESS, HEALTH, LOOPBACK, METRICS, Answer, address, endpoint
from lambent.cli.health import answered
from lambent.cli.terminal import AWAY, DEFAULT_STORE, SIGNALLED, USAGE, fail
from lambent.errors import InvalidParameterValue, LambentError, StoreUnavailable

if TYPE_CHECKING:  # no other command needs an engine, nor a log
    from lambent.engine import Engine

DEFAULT_API = "127.0.0.1:9001"
MAXIMUM_NAMES = 10  # of functions and mappings that the first line tells


class LogFormat(StrEnum):
    json = "json"
    text = "text"


StoreOption = Annotated[
    str | None,
    typer.Option(envvar="LAMBENT_STORE", metavar="URL", help=f"The code's by default, or {DEFAULT_STORE}."),
]
HealthOption = Annotated[
    str | None,
    typer.Option(metavar=ADDRESS, help=f"Answer GET {HEALTH} there: 200 or 503; without a host on {LOOPBACK}."),
]
MetricsOption = Annotated[
    str | None, typer.Option(metavar=ADDRESS, help=f"Answer Prometheus's GET {METRICS} there, and {HEALTH}.")
]
LogFormatOption = Annotated[
    LogFormat | None, typer.Option(help="Of the log on stderr; by default text on a terminal, otherwise json.")
]


def run(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py[:engine]", help="Where the engine is made; its name, if there are more.")
    ],
    store: StoreOption = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when Python files beside it change; --reload-code, too.")
    ] = False,
    reload_code: Annotated[
        bool, typer.Option("--reload-code", help="Run functions with an environment anew when their code changes.")
    ] = False,
    health: HealthOption = None,
    metrics: MetricsOption = None,
    log_format: LogFormatOption = None,
) -> None:
    """Serve the functions of a file until SIGTERM or Ctrl-C.

    The first signal drains: nothing new is begun, and what runs may end. A second one stops at once, and the exit code
    is 128 and its number. Nothing is lost either way, nor by kill -9."""
    if reload:
        named: dict[str, str | None] = {"store": store, "health": health, "metrics": metrics, "log-format": log_format}
        raise typer.Exit(_serve_anew(target, named))
    from lambent.cli.loading import load_engine

    engine = load_engine(target)
    if reload_code:
        engine.settings = engine.settings.model_copy(update={"reload_code": True})
    _run(engine, store, health, metrics, log_format)


def serve(
    target: Annotated[
        str | None, typer.Argument(metavar="FILE.py[:engine]", help="An engine whose functions are served, too.")
    ] = None,
    api: Annotated[str, typer.Option(metavar=ADDRESS, help="Where the API is; on this machine only.")] = DEFAULT_API,
    store: StoreOption = None,
    health: HealthOption = None,
    metrics: MetricsOption = None,
    delay_scale: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of delays that AWS fixes: 0.01 makes 0.6 s of a minute before a retry."),
    ] = None,
    log_format: LogFormatOption = None,
) -> None:
    """Serve Lambda's API, for boto3 and the AWS CLI.

    Set AWS_ENDPOINT_URL_LAMBDA to the URL that the log tells. Functions that are created by it are run here, beside
    those of a file. It ends as `lambent run` does."""
    from lambent.cli.loading import load_engine

    if target is not None and delay_scale is not None:
        fail(f"--delay-scale is for functions without a file: say delay_scale={delay_scale} in {target}", USAGE)
    if target is None:
        from lambent.engine import Engine

        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or DEFAULT_REGION
        try:
            engine = Engine(DEFAULT_STORE, region=region, delay_scale=1.0 if delay_scale is None else delay_scale)
        except LambentError as error:
            fail(error.message, USAGE)
    else:
        engine = load_engine(target)
    _run(engine, store, health, metrics, log_format, api)


def _run(
    engine: Engine,
    store: str | None,
    health: str | None,
    metrics: str | None,
    log_format: LogFormat | None,
    api: str | None = None,
) -> None:
    import structlog

    if log_format is not None or not structlog.is_configured():
        _log_to_stderr(log_format or (LogFormat.text if sys.stderr.isatty() else LogFormat.json))
    try:
        listening = _listening(engine, health, metrics)
        serve_api = None if api is None else _api(engine, api)
        engine.store_in(store or DEFAULT_STORE, unless_named=store is None)
        serving = partial(_tell_and_wait, engine, listening, serve_api)
        stopped_by = engine.run(serving, told=partial(_tell_signal, engine))
    except LambentError as error:
        fail(error.message, AWAY if isinstance(error, StoreUnavailable) else USAGE)
    engine.telemetry.log("info", "ended")
    if stopped_by is not None:
        raise typer.Exit(SIGNALLED + stopped_by)


def _api(engine: Engine, text: str) -> Callable[[], AbstractAsyncContextManager[str]]:
    """Raises InvalidParameterValue for what is no address of this machine, or if the server is not installed."""
    host, port = address("api", text)
    try:
        from lambent.api.serving import check_loopback, serving
    except ImportError as missing:
        raise InvalidParameterValue(f"serve: it needs {missing.name}: pip install 'lambent[server]'") from missing
    check_loopback(host)
    return lambda: serving(engine, host, port)


_Listening = dict[tuple[str, int], dict[str, Callable[[], Answer]]]
"""By address, what is answered there."""


def _listening(engine: Engine, health: str | None, metrics: str | None) -> _Listening:
    """Raises InvalidParameterValue for what is no address, or if nothing is there to tell metrics."""
    answers: _Listening = {}
    if health is not None:
        answers[address("health", health)] = {HEALTH: partial(answered, engine.health)}
    if metrics is not None:
        answers[address("metrics", metrics)] = {METRICS: _metrics(engine), HEALTH: partial(answered, engine.health)}
    return answers


def _metrics(engine: Engine) -> Callable[[], Answer]:
    """All that this process counts with prometheus_client: also what its functions count, and its memory and files."""
    try:
        from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

        from lambent.prometheus import EngineCollector
    except ImportError as missing:
        raise InvalidParameterValue(f"metrics: they need {missing.name}: pip install 'lambent[metrics]'") from missing
    REGISTRY.register(EngineCollector(engine))
    return lambda: (HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(REGISTRY))


async def _tell_and_wait(
    engine: Engine, listening: _Listening, api: Callable[[], AbstractAsyncContextManager[str]] | None
) -> None:
    async with AsyncExitStack() as stack:
        where: dict[str, str] = {}
        if api is not None:
            where["api"] = await stack.enter_async_context(api())
        for (host, port), paths in listening.items():
            url = await stack.enter_async_context(endpoint(host, port, paths))
            where |= {path.strip("/"): f"{url}{path}" for path in paths if path.strip("/") not in where}
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it again and again makes callers wait, 20 ms with an API
        _tell(engine, where)
        await asyncio.Event().wait()


def _tell(engine: Engine, where: dict[str, str]) -> None:
    mappings = [f"{without_password(each.source)} → {each.function}" for each in engine.control.mappings.values()]
    engine.telemetry.log(
        "info",
        "serving",
        store=str(engine.store),
        functions=_names(sorted(engine.control.functions)),
        mappings=_names(sorted(mappings)),
        **where,
    )


def _tell_signal(engine: Engine, again: bool) -> None:
    if again:
        engine.telemetry.log("info", "stopping at once: what is cut off will be done again")
    else:
        seconds = engine.settings.drain_seconds
        engine.telemetry.log("info", "draining: a second signal stops at once", drain_seconds=seconds)


def _names(names: list[str]) -> list[str]:
    more = len(names) - MAXIMUM_NAMES
    return names if more <= 0 else [*names[:MAXIMUM_NAMES], f"and {more} more"]


def _log_to_stderr(log_format: LogFormat) -> None:
    import structlog

    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if log_format is LogFormat.text:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(cast(TextIO, _Stderr())),
    )


class _Stderr:
    """Where the log goes. Nobody may read it any more: that ends no loop of the engine."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


# --------------------------------------------------------------------------- reloading


def _serve_anew(target: str, named: Mapping[str, str | None]) -> int:
    """Serve in a process of its own, and in another one each time that code has changed; gives the last one's exit
    code. One that could not start waits for the next change."""
    import watchfiles  # only here

    command = [sys.executable, "-m", "lambent.cli", "run", target, "--reload-code"]
    command += [word for name, value in named.items() if value for word in (f"--{name}", value)]
    child = subprocess.Popen(command)  # noqa: S603  our own program, with what we were given
    ending = threading.Event()

    def pass_on(number: int, frame: FrameType | None) -> None:
        ending.set()
        if number == signal.SIGTERM or not sys.stdin.isatty():  # Ctrl-C reaches all processes of a terminal
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    folder = Path(target.partition(":")[0]).resolve().parent
    for changes in watchfiles.watch(folder, watch_filter=watchfiles.PythonFilter(), stop_event=ending):
        typer.echo(f"lambent: {', '.join(sorted(Path(path).name for _, path in changes))} changed", err=True)
        child.terminate()
        child.wait()
        if ending.is_set():
            break
        child = subprocess.Popen(command)  # noqa: S603
        if ending.is_set():
            child.terminate()  # the signal came for the one before
    return child.wait()
