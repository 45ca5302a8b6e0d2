"""`lambent run`: which engine of a file is meant, and what is said if there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

from lambent.cli.loading import load_engine

Written = Callable[[str], str]


@pytest.fixture(autouse=True)
def modules_stay_as_they_were() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refused(target: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(typer.Exit) as ended:
        load_engine(target)
    return ended.value.exit_code, capsys.readouterr().err


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> str:
        file = tmp_path / "shop_app.py"
        file.write_text(text)
        return str(file)

    return write


def test_the_only_engine_of_a_file_is_meant_whatever_its_name(written: Written) -> None:
    file = written("from lambent import Engine\nshop = again = Engine('memory://')\n")
    engine = load_engine(file)
    assert engine is load_engine(f"{file}:shop")


def test_of_several_engines_one_is_named(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    file = written("from lambent import Engine\none = Engine()\nother = Engine()\nthird = 3\n")
    assert load_engine(f"{file}:other") is not load_engine(f"{file}:one")
    code, said = refused(file, capsys)
    assert (code, f"its engines are one, other: say which, as in `lambent run {file}:one`" in said) == (2, True)
    assert "four is not in it; its engines are one, other" in refused(f"{file}:four", capsys)[1]
    assert "third is no Engine but 3; its engines are one, other" in refused(f"{file}:third", capsys)[1]


def test_a_file_without_an_engine_says_what_to_write(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refused(written("x = 1\n"), capsys)
    assert code == 2
    assert "it makes no Engine: write `engine = Engine()` at its top level" in said


def test_a_file_that_is_not_there_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for target, what in (
        (str(tmp_path / "app.py"), "is not there"),
        (str(tmp_path), "is no file of Python"),
        ("lambent.cli", "is not there"),
    ):
        code, said = refused(target, capsys)
        assert code == 2
        assert f"{what}: name one that makes an Engine" in said


def test_a_syntax_error_is_told_with_its_place(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    file = written("x = 1\ndef f(:\n")
    assert refused(file, capsys) == (2, f"lambent: {file}, line 2: invalid syntax\n")


def test_what_a_file_raises_is_told_from_the_file_on(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    file = written("def f():\n    import nowhere_to_be_found\nf()\n")
    code, said = refused(file, capsys)
    assert code == 1
    first, *trace, last = said.splitlines()
    assert first == f"lambent: {file} cannot be imported:"
    assert trace[0] == f'  File "{file}", line 3, in <module>'
    assert last == "ModuleNotFoundError: No module named 'nowhere_to_be_found'"


def test_a_file_in_a_package_is_imported_as_a_part_of_it(tmp_path: Path) -> None:
    package = tmp_path / "stock" / "parts"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "names.py").write_text("from lambent import Engine\nengine = Engine()\n")
    (package / "app.py").write_text("from .names import engine\n")
    engine = load_engine(str(package / "app.py"))
    assert engine is sys.modules["stock.parts.names"].engine
