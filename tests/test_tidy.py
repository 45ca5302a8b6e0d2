"""The house rules, as far as a machine can hold them (see "House rules" in docs/architecture.md).

Decides which rules hold for which files. Every rule stands beside a snippet that breaks it, and is run on that too: a
rule that cannot fail is no rule. The layers themselves are import-linter's contracts in pyproject.toml.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import UnionType
from typing import get_args
from urllib.parse import urlsplit

import pytest

from lambent import model, ports

ROOT = Path(__file__).resolve().parent.parent
MAXIMUM_LINES = 600
MAXIMUM_METHODS = 5
SHELLS = tuple(f"engine/lambent/{name}" for name in ("polling/", "stores/", "invoker.py", "destinations.py"))


@dataclass(frozen=True)
class Source:
    """One Python file of the project: its path from the root, with slashes, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    def calls(self) -> Iterator[tuple[str, ast.Call]]:
        for node in self.nodes:
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node

    def imports(self) -> Iterator[tuple[int, str]]:
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, each.name) for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.lineno, node.module


Complaints = Iterator[str]
Check = Callable[[Source], Complaints]


@dataclass(frozen=True)
class Rule:
    """A rule for one file: where it holds (a pattern of paths), and snippets which break it."""

    check: Check
    where: str
    broken_by: tuple[Source, ...]


RULES: list[Rule] = []
CODE = "engine/|pollers/"
TESTS = "tests/|.*/test_"


def rule(where: str, *broken_by: str | Source) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        sources = (bad if isinstance(bad, Source) else Source("bad.py", bad) for bad in broken_by)
        RULES.append(Rule(check, where, tuple(sources)))
        return check

    return add


# --------------------------------------------------------------------------- rules for one Python file


@rule("", "import os\n")
def head_docstring(source: Source) -> Complaints:
    if source.text.strip() and not ast.get_docstring(source.tree):
        yield "begins without a docstring that says what it decides"


@rule("", "\n" * (MAXIMUM_LINES + 1))
def not_too_long(source: Source) -> Complaints:
    if (lines := source.text.count("\n")) > MAXIMUM_LINES:
        yield f"has {lines} lines; {MAXIMUM_LINES} are the most"


@rule("", Source("engine/lambent/shard_worker.py", ""), Source("engine/lambent/utils.py", ""))
def telling_name(source: Source) -> Complaints:
    for word in Path(source.path).stem.lower().split("_"):
        if re.fullmatch(r"(job|worker|manager|helper|util|service)(s|es)?", word):
            yield f"is called {word!r}, which says nothing"


@rule("engine/lambent/semantics/", "import time\n", "from random import random\n", "async def f(): ...\n")
def deciding_is_pure(source: Source) -> Complaints:
    impure = {"asyncio", "concurrent", "datetime", "logging", "os", "random", "secrets", "socket", "structlog"}
    for node in source.nodes:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"line {node.lineno}: waits; deciding never does"
    for line, name in source.imports():
        if name.split(".")[0] in impure | {"threading", "time", "uuid"}:
            yield f"line {line}: imports {name}; what is needed of it comes in as an argument"


@rule("", "asyncio.create_task(f())\n", "loop.create_task(f())\n", "asyncio.ensure_future(f())\n")
def tasks_are_kept(source: Source) -> Complaints:
    for node in source.nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func)
            kept = re.search(r"(group|tasks)\.create_task$", called)
            if called.endswith(("create_task", "ensure_future")) and not kept:
                yield f"line {node.lineno}: {called} without keeping the task; it may vanish"


@rule("", "asyncio.wait_for(f(), 1)\n", "c = asyncio.Condition\n", "from asyncio import wait_for\n")
def cancellation_is_safe(source: Source) -> Complaints:
    """CPython 3.11 loses cancellations in these (design: time, chance, lifecycle)."""
    for node in source.nodes:
        names: set[str] = set()
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "asyncio":
            names = {node.attr}
        elif isinstance(node, ast.ImportFrom) and node.module == "asyncio":
            names = {each.name for each in node.names}
        for name in names & {"wait_for", "Condition"}:
            yield f"asyncio.{name} loses cancellations on Python 3.11; use asyncio.timeout or Event"


@rule(CODE, "try: f()\nexcept BaseException: pass\n", "try: f()\nexcept: pass\n")
def base_exceptions_go_on(source: Source) -> Complaints:
    for node in source.nodes:
        if (
            isinstance(node, ast.ExceptHandler)
            and (node.type is None or "BaseException" in ast.unparse(node.type))
            and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        ):
            yield f"line {node.lineno}: swallows BaseException, and cancellation with it"


@rule("", "import pickle\n", "from marshal import loads\n", "yaml.load(x)\n", "eval(x)\n")
def data_stays_data(source: Source) -> Complaints:
    for line, name in source.imports():
        if name.split(".")[0] in ("pickle", "marshal", "shelve", "dill"):
            yield f"line {line}: {name} runs what it reads"
    for called, node in source.calls():
        if called in ("yaml.load", "eval", "exec"):
            yield f"line {node.lineno}: {called} runs what it reads"


@rule(CODE, "db.execute(f'DROP {x}')\n", "db.execute('a' + x)\n", "db.executemany('{}'.format(x))\n")
def sql_binds_its_values(source: Source) -> Complaints:
    for called, node in source.calls():
        if called.rpartition(".")[2] in ("execute", "executemany", "executescript") and node.args:
            sql = node.args[0]
            formatted = isinstance(sql, ast.Call) and ast.unparse(sql.func).endswith(".format")
            if formatted or isinstance(sql, ast.JoinedStr | ast.BinOp):
                yield f"line {node.lineno}: SQL put together from text; bind its values"


@rule("engine/|pollers/|examples/|benchmarks/", "x = 1  # type: " + "ignore\n", "x = 1  # no" + "qa\n")
def ignores_say_what(source: Source) -> Complaints:
    for number, line in enumerate(source.text.splitlines(), 1):
        if re.search(r"#\s*(type:\s*ignore(?!\[)|noqa(?!:))", line):
            yield f"line {number}: an ignore without a code hides more than it means"


@rule(
    r"(engine|pollers)/(?!lambent/(engine|world)\.py|lambent/testing/)",
    *("t = time.time()\n", "x = random.random()\n", "i = uuid.uuid4()\n", "time.sleep(1)\n", "datetime.now(UTC)\n"),
)
def time_and_chance_come_from_the_world(source: Source) -> Complaints:
    for called, node in source.calls():
        if re.fullmatch(r"time\.(time|time_ns|monotonic|sleep)|(datetime\.)?datetime\.(now|utcnow|today)", called):
            yield f"line {node.lineno}: {called}; time comes from world.clock"
        if re.fullmatch(r"random\.(?!Random$)\w+|(uuid\.)?uuid[14]|secrets\.\w+|os\.urandom", called):
            yield f"line {node.lineno}: {called}; chance and ids come from the world"


@rule(TESTS, "time.sleep(0)\n", "await asyncio.sleep(0.1)\n")
def no_test_sleeps(source: Source) -> Complaints:
    """Waiting is for events. On virtual time sleeping costs nothing, and is allowed."""
    if "virtual_time" in source.text or "lambent.testing" in source.text:
        return
    for called, node in source.calls():
        pause = called == "asyncio.sleep" and [ast.unparse(each) for each in node.args[:1]] != ["0"]
        if pause or called == "time.sleep":
            yield f"line {node.lineno}: {called} in a test; wait for an event"


@rule(TESTS, "from unittest.mock import Mock\n", "@pytest.mark.xfail\ndef f(): ...\n", "pytest.skip('')\n")
def honest_tests(source: Source) -> Complaints:
    for line, name in source.imports():
        if "mock" in name:
            yield f"line {line}: {name}; use the real thing or a simulated source"
    for node in source.nodes:
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if re.fullmatch(r"pytest\.(mark\.)?(skip|skipif|xfail)", name):
                yield f"line {node.lineno}: {name}; a test runs, or is not there"


def rules() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.check.__name__)


@rules()
def test_the_house_rule_holds_everywhere(rule: Rule) -> None:
    sources = (source for source in _sources() if re.match(rule.where, source.path))
    complaints = [f"{source.path}: {complaint}" for source in sources for complaint in rule.check(source)]
    assert not complaints, "\n".join(complaints)


@rules()
def test_the_house_rule_can_fail(rule: Rule) -> None:
    for source in rule.broken_by:
        assert list(rule.check(source)), f"lets pass: {source}"


# --------------------------------------------------------------------------- steps and ports


def _steps() -> set[str]:
    unions = (model.StreamStep, model.EventStep, model.Settlement)
    return {step.__name__ for union in unions for step in get_args(union)}


def unhandled(steps: set[str], shells: Iterable[Source]) -> set[str]:
    """Steps that no `match` (nor isinstance) of a shell names."""
    handled: set[str] = set()
    for shell in shells:
        for node in shell.nodes:
            if isinstance(node, ast.MatchClass):
                handled.add(ast.unparse(node.cls).rpartition(".")[2])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                handled.update(re.findall(r"\w+", ast.unparse(node.args[1])))
    return steps - handled


def test_every_step_is_performed_by_a_shell() -> None:
    assert isinstance(model.StreamStep, UnionType)
    missing = unhandled(_steps(), (source for source in _sources() if source.path.startswith(SHELLS)))
    assert not missing, f"no shell performs {sorted(missing)}"


def test_a_step_that_nobody_performs_is_noticed() -> None:
    shell = Source("", "match x:\n case Invoke(): ...\n case model.Delete(): ...\nisinstance(x, Release | Wait)\n")
    assert unhandled({"Invoke", "Delete", "Release", "Wait", "Fetch"}, [shell]) == {"Fetch"}


WITHOUT_A_SUITE = {
    "Clock": "two methods of one line each; the simulation replaces it in every run",
    "Store": "connects; every suite of what it holds begins with that",
    "Connection": "a bundle; each of its parts has a suite",
    "StreamReader": "made by a StreamSource, whose suite reads through it",
    "EnvironmentRuntime": "a Runtime, with what functions are registered by; its suite runs one",
    "Call": "made by a Runtime, and tested with it",
    "BuiltinQueue": "QueueSource and QueueTarget in one; both have a suite",
    "BuiltinStream": "StreamSource and StreamTarget in one; both have a suite",
}


def _ports() -> set[str]:
    return {name for name, thing in vars(ports).items() if getattr(thing, "_is_protocol", False) and name != "Protocol"}


def without_suite(names: Iterable[str], suites: Iterable[Source]) -> set[str]:
    text = "\n".join(suite.text for suite in suites)
    return {name for name in names if not re.search(rf"\b{name}\b", text)}


def test_every_port_has_a_behaviour_suite() -> None:
    suites = [source for source in _sources() if source.path.startswith("tests/ports/")]
    missing = without_suite(_ports() - WITHOUT_A_SUITE.keys(), suites)
    assert not missing, f"tests/ports says nothing about {sorted(missing)}"
    assert WITHOUT_A_SUITE.keys() <= _ports(), "an exception outlived its port"
    for path in re.findall(r"tests/\S+\.py", " ".join(WITHOUT_A_SUITE.values())):
        assert (ROOT / path).exists(), f"an exception names {path}, which is not there"


def test_a_port_without_a_suite_is_noticed() -> None:
    assert without_suite({"Leases", "Documents"}, [Source("", "def suite(leases: Leases): ...")]) == {"Documents"}


def wide(tree: ast.Module) -> Complaints:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
            functions = (each for each in node.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef))
            methods = [each for each in functions if "property" not in map(ast.unparse, each.decorator_list)]
            if len(methods) > MAXIMUM_METHODS:
                yield f"{node.name} has {len(methods)} methods; {MAXIMUM_METHODS} are the most"


def test_ports_are_narrow() -> None:
    assert not list(wide(ast.parse((ROOT / "engine/lambent/ports.py").read_text("utf-8"))))


def test_a_wide_port_is_noticed() -> None:
    assert list(wide(ast.parse("class P(Protocol):\n" + "".join(f"    def f{i}(self): ...\n" for i in range(6)))))


# --------------------------------------------------------------------------- every file of the repository


def traces(text: str, forbidden: Iterable[str]) -> Complaints:
    """What ties a file to one machine: its paths, its package index."""
    for number, line in enumerate(text.splitlines(), 1):
        for words in forbidden:
            if words in line:
                yield f"line {number}: {words}"
        if found := re.search(r"(?<![\w.])/(home|Users|work|mnt)/\w+|--(extra-)?index-url|--find-links", line):
            yield f"line {number}: {found[0]}"


def _of_this_machine() -> list[str]:
    addresses = (value for name, value in os.environ.items() if name.lower().endswith(("index_url", "_proxy")))
    hosts = {urlsplit(address).hostname or "" for address in addresses} - {"", "localhost", "127.0.0.1", "pypi.org"}
    return [str(ROOT), *hosts] if len(ROOT.parts) > 2 else [*hosts]


def test_no_file_names_a_machine_or_a_package_index() -> None:
    complaints = []
    for path in _files():
        if path == "tests/test_tidy.py":
            continue
        try:
            text = (ROOT / path).read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        complaints += [f"{path} {complaint}" for complaint in traces(text, _of_this_machine())]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("line", ["cd /home/me/x", "pip install --index-url x", "/Users/me", "at example.test"])
def test_a_machines_trace_is_noticed(line: str) -> None:
    assert list(traces(line, ["example.test"]))


def test_semantics_load_without_asyncio() -> None:
    """What the layers say of the text, said of the running program."""
    program = (
        "import sys, importlib, pathlib, lambent.semantics as s\n"
        "modules = [m.stem for m in pathlib.Path(s.__path__[0]).glob('[a-z]*.py')]\n"
        "for m in modules: importlib.import_module('lambent.semantics.' + m)\n"
        "own = {m for m in sys.modules if m.startswith('lambent')}\n"
        "PURE = ([], ['semantics'], ['model'], ['configuration'], ['errors'], ['arns'])\n"
        "print(sorted(m for m in own if m.split('.')[1:2] not in PURE))\n"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


# --------------------------------------------------------------------------- what they read


@cache
def _sources() -> list[Source]:
    return [Source(path, (ROOT / path).read_text("utf-8")) for path in _files() if path.endswith(".py")]


def _files() -> list[str]:
    """Every file that is or would be in the repository; without git (an unpacked archive) the source folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        folders = ("engine", "pollers", "examples", "tests", "benchmarks")
        listed = [str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path for path in listed if (ROOT / path).is_file())
