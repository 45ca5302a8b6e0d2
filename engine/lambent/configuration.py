"""The base of every configuration, names and references in it, and where a function runs that is no callable of this
process.

Decides how functions, queues, streams and destinations are named, and what an execution environment may be told:
runtime, code, handler, layers, variables, sizes and how it logs, each value on its own. What runs it is found by its
runtime's family in `runtimes/`; whether the code is there is found out when it is fetched. Ranges and names are those
of the Lambda API reference (CreateFunction) and of the developer guide («Working with environment variables»,
«Configuring JSON and plain text log formats»).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

MAXIMUM_VARIABLES_BYTES: Final = 4096  # Lambda quotas: all environment variables together
MAXIMUM_LAYERS: Final = 5  # Lambda quotas: layers of a function
RESERVED_VARIABLES: Final = frozenset(
    {
        "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION",
        "AWS_EXECUTION_ENV", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION", "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_RUNTIME_API", "AWS_REGION", "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN", "LAMBDA_RUNTIME_DIR", "LAMBDA_TASK_ROOT",
    }
)  # fmt: skip
"""Variables that only the environment itself sets (Lambda guide: «Defined runtime environment variables»)."""


class Configuration(BaseModel):
    """Base of every configuration: unknown fields, NaN and wrong types are refused, and a value never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)


def _destination(value: object) -> object:
    return getattr(value, "destination", value)


_DESTINATIONS: Final = (
    r"(queue|stream|function):[\w.-]{1,128}|file:///.+|https?://[^\s/?#]\S*"
    r"|kafka://([\w.-]+|[^\s/]+/[^\s/?#,]+(\?\S*)?)"
)


def _known_scheme(value: str) -> str:
    if not re.fullmatch(_DESTINATIONS, value, re.ASCII):
        raise ValueError(
            "a destination is a queue, stream or function of this engine (an object, or 'queue:NAME', 'stream:NAME', "
            "'function:NAME'), a JSON-lines file ('file:///PATH'), an HTTP endpoint ('https://…') or a topic, "
            "with its cluster ('kafka://HOST:PORT/TOPIC')"
        )
    return value


DestinationRef = Annotated[str, BeforeValidator(_destination), AfterValidator(_known_scheme)]
ResourceName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,80}(\.fifo)?$")]
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


def _text(value: object) -> object:
    """A path is written as text."""
    return str(value) if hasattr(value, "__fspath__") else value


def _no_control(value: str) -> str:
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("it names a folder, a zip file or an HTTP endpoint, without control characters")
    return value


_HANDLERS: Final = "a name as 'module.function' or 'folder/file.function', inside the code's folder, or empty (string)"


def _handler(value: str) -> str:
    """Where the code is looked for stays the code's folder, whatever the runtime makes of this text."""
    if not re.fullmatch(r"[\x21-\x7e]{0,128}", value) or value.startswith(("/", "-")) or ".." in value or "\\" in value:
        raise ValueError(f"it must be {_HANDLERS}")
    return value


def _variables(variables: dict[str, str]) -> dict[str, str]:
    for name, value in variables.items():
        if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]+", name):
            raise ValueError(
                f"{name!r} is no name of a variable: letters, digits and underscores, at least two, the first a letter"
            )
        if "\0" in value:
            raise ValueError(f"the value of {name} has a NUL in it, which no process can be given")
    if refused := reserved(variables):
        raise ValueError(refused)
    try:
        size = measured(variables)
    except UnicodeEncodeError:
        raise ValueError("the values must be Unicode text, without lone surrogates") from None
    if size > MAXIMUM_VARIABLES_BYTES:
        raise ValueError(  # AWS shows the variables themselves here, secrets and all
            "Lambda was unable to configure your environment variables because the environment variables you have "
            f"provided exceeded the 4KB limit. Measured: {size} bytes"
        )
    return variables


def reserved(variables: Mapping[str, str]) -> str:
    """What AWS says of variables that only the environment itself sets; "" if there are none."""
    found = sorted(RESERVED_VARIABLES & variables.keys())
    words = (
        "Lambda was unable to configure your environment variables because the environment variables you have provided "
        "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: "
    )
    return words + ", ".join(found) if found else ""


def measured(variables: Mapping[str, str]) -> int:
    """How many bytes all of them are, as AWS counts: as compact JSON."""
    return len(json.dumps(dict(variables), ensure_ascii=False, separators=(",", ":")).encode())


Reference = Annotated[
    str, BeforeValidator(_text), Field(min_length=1, max_length=2048), AfterValidator(_no_control)
]  # fmt: skip
"""Where code is: a folder, a zip file (.zip), an uploaded zip ('sha256:' and its hash in base64), or a URL ('http')."""


class ExecutionEnvironment(Configuration):
    """Where a function runs that is no callable of this process, a process of its own: CreateFunction's Runtime, Code,
    Handler, Layers, Environment, EphemeralStorage and LoggingConfig.

    runtime: an identifier of AWS, as 'python3.13', 'nodejs22.x' or 'provided.al2023'; its letters up to the first digit
    or dot, the family, say what runs it here. code: where it is; a path is relative to where the engine was started.
    handler: what is called in it, in the runtime's own terms; a family that needs none (`provided`) is only told it.
    layers: where more of it is, laid over each other at /opt in this order. variables: of its environment, at most
    4 KB together. ephemeral_storage_mb: how much /tmp may hold. log_group: what the function is told that its log is
    called, AWS's name for it otherwise.
    recycle_after: how many invocations an environment serves before another takes its place; None: any number.
    provisioned_concurrency: how many are kept ready before anybody calls (AWS has that for versions and aliases)."""

    runtime: Annotated[str, Field(pattern=r"^[a-z][a-z0-9.-]{0,63}$")]
    code: Reference
    handler: Annotated[str, AfterValidator(_handler), Field(description=_HANDLERS)] = ""
    layers: Annotated[list[Reference], Field(max_length=MAXIMUM_LAYERS)] = []
    variables: Annotated[dict[str, str], AfterValidator(_variables), Field(repr=False)] = {}
    ephemeral_storage_mb: Annotated[int, Field(ge=512, le=10240)] = 512
    log_format: Literal["Text", "JSON"] = "Text"
    application_log_level: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] | None = None
    system_log_level: Literal["DEBUG", "INFO", "WARN"] | None = None
    log_group: Annotated[str, Field(pattern=r"^[.\-_/#A-Za-z0-9]{1,512}$")] | None = None
    recycle_after: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    provisioned_concurrency: Annotated[int, Field(ge=0, le=10_000)] = 0

    @model_validator(mode="after")
    def _fits_together(self) -> ExecutionEnvironment:
        if self.log_format == "Text" and (self.application_log_level or self.system_log_level):
            raise ValueError("application_log_level and system_log_level go with log_format='JSON'")
        if self.family in ("python", "nodejs") and "." not in self.handler:
            raise ValueError(f"handler is missing: with runtime={self.runtime!r} it must be {_HANDLERS}")
        return self

    @property
    def family(self) -> str:
        """What kind of runtime it is: 'python' of 'python3.13', 'provided' of 'provided.al2023'."""
        return re.split(r"[0-9.-]", self.runtime, maxsplit=1)[0]


class PublishedVersion(Configuration):
    """What is kept of a version: all that a call of it depends on. Without an environment it is the callable itself."""

    timeout_seconds: Annotated[int, Field(ge=1, le=900)] = 3
    memory_size_mb: Annotated[int, Field(ge=128, le=10240)] = 128
    environment: ExecutionEnvironment | None = None


class Alias(Configuration):
    """A name for a version; `weights` are the shares of calls that others get."""

    version: str
    weights: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
