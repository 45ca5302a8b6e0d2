"""What a process of an environment is given: its command, variables, places and limits.

Decides what surrounds the user's code, after the developer guide («Defined runtime environment variables», «Lambda
execution environment lifecycle») and recorded answers: variables are made anew and nothing of the engine's is passed
on, layers are at /opt and a /tmp of its own at /tmp where the kernel lets us put them there, and elsewhere in search
paths and TMPDIR. Beginning and ending the process is `process.py`'s.
"""

from __future__ import annotations

import glob
import importlib.util
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal

from lambent.configuration import ExecutionEnvironment
from lambent.model import LATEST, Function
from lambent.ports import CodePlaces
from lambent.runtimes.beginning import become

MAXIMUM_DESCRIPTORS: Final = 1024  # Lambda quotas: file descriptors
MAXIMUM_PROCESSES: Final = 4096
"""Of all environments together, where they have a user of their own (the kernel counts by user)."""
UNPRIVILEGED: Final = 65_534
"""The user and group, nobody's, that an engine which is root lets its environments be."""
NOBODY: Final = "lambent"
"""Credentials that are none: an SDK finds some, as on AWS, and looks for no others."""
_TMP: Final = "/tmp"  # noqa: S108 - what environments call theirs
PROBE_SECONDS: Final = 10.0


class CannotBegin(Exception):
    """There is nothing that could be started; the message says what to install or mend. `error_type` is AWS's."""

    def __init__(self, message: str, error_type: str = "Runtime.InvalidEntrypoint") -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class Isolation:
    """What this machine lets us do for an environment. `mounting`: whether it has mounts of its own, and by what right
    ("root", "user": of a user namespace); `dropping`: whether its privileges are taken; `becoming`: the user that it is
    then, 0 for the engine's; `gaps`: what is not possible, in words."""

    mounting: Literal["", "root", "user"]
    dropping: bool
    becoming: int
    gaps: tuple[str, ...]


@lru_cache(maxsize=1)
def isolation() -> Isolation:
    """Find out, once, by trying. Blocks for some milliseconds."""
    root = os.getuid() == 0
    gaps: list[str] = []
    mounting: Literal["", "root", "user"] = ""
    ways: tuple[Literal["root", "user"], ...] = ("root", "user") if root else ("user",)
    for way in ways:
        if _allowed(Launch(["true"], {}, "/", {}, mounting=way, mounts=[(_TMP, "/opt")])):
            mounting = way
            break
    if not mounting:
        gaps.append(
            "Environments see the machine's /tmp and /opt; their own are named by TMPDIR and the search paths (the "
            "kernel allows no mounts of their own)."
        )
    becoming = UNPRIVILEGED if root and mounting != "user" else 0  # a namespace of one user has no other
    dropping = _allowed(Launch(["true"], {}, "/", {}, mounting=mounting, dropping=True, becoming=becoming))
    if not dropping:
        gaps.append("Environments keep the engine's user and privileges (the kernel refuses to take them).")
        becoming = 0
    return Isolation(mounting, dropping, becoming, tuple(gaps))


@dataclass(frozen=True, slots=True)
class Launch:
    """All that a process is begun with."""

    command: Sequence[str]
    variables: Mapping[str, str]
    folder: str
    limits: Mapping[int, int]
    mounting: Literal["", "root", "user"] = ""
    mounts: Sequence[tuple[str, str]] = ()
    dropping: bool = False
    becoming: int = 0
    caution: str = ""
    """What is less than it should be, and why."""

    def told(self) -> bytes:
        """It as `launcher.py` understands it."""
        return json.dumps(
            {
                "command": self.command,
                "variables": self.variables,
                "folder": self.folder,
                "limits": list(self.limits.items()),
                "mounting": self.mounting,
                "mounts": self.mounts,
                "dropping": self.dropping,
                "becoming": self.becoming,
            }
        ).encode()


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose environment it is: what it is told of itself."""

    region: str
    log_stream_name: str
    provisioned: bool = False
    version: str = LATEST


def launch(function: Function, code: CodePlaces, identity: Identity, port: int, temporary: Path) -> Launch:
    """How to begin a process for this function. `port` is its Runtime API's, `temporary` what is to be its /tmp.

    Raises CannotBegin."""
    environment = function.environment
    assert environment is not None
    own = isolation()
    command = [*_command(environment, code)]
    mounts: list[tuple[str, str]] = []
    opt = None if code.layers is None else str(code.layers)
    needed = {str(code.folder), os.path.dirname(command[-1] if environment.family == "provided" else command[0])}
    needed |= {sys.prefix, sys.base_prefix} if command[0] == sys.executable else set()
    needed |= {str(Path(command[1]).parents[2])} if environment.family == "nodejs" else set()
    needed |= {opt} if opt is not None else set()
    needed = {path for path in needed if not any(path.startswith(f"{each}/") for each in needed)}
    if wrapper := environment.variables.get("AWS_LAMBDA_EXEC_WRAPPER"):
        command.insert(0, wrapper)
    if own.mounting:
        for path in sorted(path for path in needed if path.startswith(_TMP + "/")):  # a /tmp of its own would hide it
            inside = temporary / path.removeprefix(_TMP + "/")
            _make_public(inside, temporary)
            mounts.append((path, str(inside)))
        mounts.append((str(temporary), _TMP))
        if opt is not None and not any(path.startswith("/opt/") for path in needed) and os.path.isdir("/opt"):
            mounts.insert(0, (opt, "/opt"))
            opt = "/opt"
    hidden = [path for path in sorted(needed) if own.becoming and not _is_public(path, mounted=bool(own.mounting))]
    becoming = 0 if hidden else own.becoming
    caution = ""
    if hidden:
        caution = f"its environments keep the engine's user: {hidden[0]} is closed to others (chmod o+x its folders)."
    variables = _variables(function, environment, code, identity, opt, port)
    if not own.mounting:
        variables["TMPDIR"] = str(temporary)
    limits = _limits(environment, bool(becoming))
    return Launch(command, variables, str(code.folder), limits, own.mounting, mounts, own.dropping, becoming, caution)


def _make_public(folder: Path, within: Path) -> None:
    """So that it can be reached, whatever umask the engine has."""
    missing = [each for each in (folder, *folder.parents) if each.is_relative_to(within) and not each.exists()]
    for each in reversed(missing):
        each.mkdir()
        each.chmod(0o755)


def _is_public(path: str, *, mounted: bool) -> bool:
    """Can anybody go there? What is mounted into a /tmp of our making is reached through folders of our making."""
    for each in {path, os.path.realpath(path)}:
        while os.stat(each).st_mode & 0o001:
            if each == "/" or (mounted and each.startswith(_TMP + "/")):
                break
            each = os.path.dirname(each)
        else:
            return False
    return True


def _variables(
    function: Function,
    environment: ExecutionEnvironment,
    code: CodePlaces,
    identity: Identity,
    opt: str | None,
    port: int,
) -> dict[str, str]:
    """AWS's, then the user's, then those that only we set."""
    defaults = {
        "LANG": "en_US.UTF-8",
        "TZ": ":UTC",
        "PATH": os.pathsep.join(["/usr/local/bin", "/usr/bin", "/bin", *([f"{opt}/bin"] if opt else [])]),
        "LD_LIBRARY_PATH": os.pathsep.join(_libraries(code, opt)),
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1:2000",
        "_AWS_XRAY_DAEMON_ADDRESS": "127.0.0.1",
        "_AWS_XRAY_DAEMON_PORT": "2000",
    }
    if environment.family == "python" and opt is not None:
        packages = f"{opt}/python/lib/{environment.runtime}/site-packages"
        defaults["PYTHONPATH"] = os.pathsep.join([packages, f"{opt}/python"])
    if environment.family == "nodejs" and opt is not None:
        defaults["NODE_PATH"] = f"{opt}/nodejs/node_modules"
    ours = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        "AWS_LAMBDA_FUNCTION_NAME": function.name,
        "AWS_LAMBDA_FUNCTION_VERSION": identity.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "provisioned-concurrency" if identity.provisioned else "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": environment.log_group or f"/aws/lambda/{function.name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": identity.log_stream_name,
        "AWS_LAMBDA_LOG_FORMAT": environment.log_format,
        "AWS_ACCESS_KEY_ID": NOBODY,
        "AWS_SECRET_ACCESS_KEY": NOBODY,
        "AWS_SESSION_TOKEN": NOBODY,
        "AWS_REGION": identity.region,
        "AWS_DEFAULT_REGION": identity.region,
        "_HANDLER": environment.handler,
        "LAMBDA_TASK_ROOT": str(code.folder),
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
    }
    if environment.family != "provided":
        ours["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{environment.runtime}"
    if environment.application_log_level is not None:
        ours["AWS_LAMBDA_LOG_LEVEL"] = environment.application_log_level
    return {**defaults, **environment.variables, **ours}


def _libraries(code: CodePlaces, opt: str | None) -> list[str]:
    folder = str(code.folder)
    return [folder, f"{folder}/lib", *([f"{opt}/lib"] if opt else [])]


def _limits(environment: ExecutionEnvironment, of_its_own: bool) -> dict[int, int]:
    """`of_its_own`: the user, whose processes the kernel counts."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: MAXIMUM_DESCRIPTORS,
        resource.RLIMIT_FSIZE: environment.ephemeral_storage_mb * 1024 * 1024,
    }
    if of_its_own:
        limits[resource.RLIMIT_NPROC] = MAXIMUM_PROCESSES
    return limits


# --------------------------------------------------------------------------- the families


def _command(environment: ExecutionEnvironment, code: CodePlaces) -> Sequence[str]:
    match environment.family:
        case "python":
            _find_module(environment.handler, code)
            return [_interpreter(environment.runtime, code), "-m", "awslambdaric", environment.handler]
        case "nodejs":
            return [*_node_client(code), environment.handler]
        case "provided":
            return [_bootstrap(code)]
        case family:
            raise CannotBegin(f"nothing here runs runtimes of the family {family!r}")


def _node_client(code: CodePlaces) -> Sequence[str]:
    """Node and the client's file in some `node_modules`: the function's own, or that of the command in PATH."""
    node = shutil.which("node")
    if node is None:
        raise CannotBegin("node is not installed here, or not in PATH")
    own = code.folder / "node_modules" / "aws-lambda-ric" / "bin" / "index.mjs"
    client = str(own) if own.is_file() else shutil.which("aws-lambda-ric")
    if client is None:
        raise CannotBegin("aws-lambda-ric is not installed: npm install it, --global or in the code's folder")
    return [node, os.path.realpath(client)]


def _bootstrap(code: CodePlaces) -> str:
    for folder in (code.folder, code.layers):
        if folder is not None and (file := folder / "bootstrap").is_file():
            if not os.access(file, os.X_OK):
                raise CannotBegin(f"{file} is not executable: chmod +x it")
            return str(file)
    raise CannotBegin(f"{code.folder} has no executable file called bootstrap")


def _find_module(handler: str, code: CodePlaces) -> None:
    """The module is looked for in the code and its layers only, although an interpreter has more to offer."""
    module = handler.rpartition(".")[0]
    roots = [code.folder] if code.layers is None else [code.folder, code.layers / "python"]
    for root in map(os.path.realpath, roots):
        found = os.path.join(root, *module.replace("/", ".").split("."))
        for file in itertools.chain((f"{found}.py", found), glob.iglob(f"{glob.escape(found)}.*")):
            if os.path.exists(file) and os.path.realpath(file).startswith(f"{root}/"):
                return
    raise CannotBegin(
        f"Unable to import module '{module}': No module named '{module}' in the function's code",
        "Runtime.ImportModuleError",
    )


def _interpreter(runtime: str, code: CodePlaces) -> str:
    own = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    executable = sys.executable if runtime == own else shutil.which(runtime)
    if executable is None:
        raise CannotBegin(f"{runtime} is not installed here, or not in PATH; this engine runs on {own}")
    if not (code.folder / "awslambdaric").is_dir() and not _has_client(executable):
        raise CannotBegin(f"awslambdaric is not installed for {runtime}: {executable} -m pip install awslambdaric")
    return executable


@lru_cache(maxsize=64)
def _has_client(executable: str) -> bool:
    if executable == sys.executable:
        return importlib.util.find_spec("awslambdaric") is not None
    return _works([executable, "-c", "import awslambdaric"])


def _allowed(launch: Launch) -> bool:
    try:
        return become(launch.told(), (subprocess.DEVNULL, subprocess.DEVNULL)).wait() == 0
    except OSError:
        return False


def _works(command: Sequence[str]) -> bool:
    try:
        done = subprocess.run(  # noqa: S603 - a command of ours
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROBE_SECONDS, check=False, close_fds=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
