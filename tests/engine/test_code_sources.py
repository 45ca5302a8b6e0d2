"""Code by reference: folders, zip files and uploads become places to run from, and a change is a change of content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lambent import InvalidParameterValue, StoreUnavailable
from lambent.code_sources import UPLOADED, CodeSources
from lambent.code_store import CodeStore, layered
from lambent.configuration import ExecutionEnvironment
from lambent.errors import LambentError, ResourceNotFound
from lambent.semantics import zips
from tests.engine.test_code_store import store_in
from tests.semantics.zip_files import bomb, file, zipped


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    return store_in(tmp_path / "code")


@pytest.fixture
def sources(store: CodeStore) -> CodeSources:
    return CodeSources(store)


def using(code: object, *layers: object) -> ExecutionEnvironment:
    return ExecutionEnvironment(runtime="provided.al2023", code=str(code), layers=[str(layer) for layer in layers])


def folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / name).write_text(content)
    return path


def test_a_folder_is_run_where_it_is(tmp_path: Path, sources: CodeSources) -> None:
    app = folder(tmp_path / "app", bootstrap="#!/bin/sh\n")
    found = sources.find(using(app), tmp_path / "scratch")
    assert (found.folder, found.layers) == (app, None)
    assert not (tmp_path / "scratch").exists()


def test_a_folder_is_another_when_its_content_is_and_only_then(tmp_path: Path, sources: CodeSources) -> None:
    app = folder(tmp_path / "app", a="1", b="2")
    (app / "link").symlink_to("a")
    told = [sources.fingerprint(using(app))]

    def look() -> bool:
        told.append(sources.fingerprint(using(app)))
        return told[-1] != told[-2]

    assert not look()
    os.utime(app / "a", (1, 1))
    folder(app / "__pycache__", x="compiled")
    (app / "empty").mkdir()
    assert not look()
    for change in (
        lambda: (app / "a").write_text("3"),
        lambda: (app / "b").chmod(0o755),
        lambda: (app / "b").rename(app / "c"),
        lambda: folder(app / "new", d=""),
        lambda: (app / "link").unlink(),
        lambda: (app / "link").symlink_to("c"),
    ):
        change()
        assert look()
    (app / "a").write_text("1")
    (app / "a").write_text("3")
    assert not look()


def test_a_zip_file_is_run_from_the_store_and_another_when_it_is_replaced(tmp_path: Path, sources: CodeSources) -> None:
    path = tmp_path / "app.zip"
    path.write_bytes(zipped(file("app.py", b"old")))
    old = sources.find(using(path), tmp_path / "s")
    assert (old.folder / "app.py").read_bytes() == b"old"
    path.write_bytes(zipped(file("app.py", b"new")))
    new = sources.find(using(path), tmp_path / "s")
    assert (new.folder / "app.py").read_bytes() == b"new"
    assert (old.folder / "app.py").read_bytes() == b"old"  # for what runs on it
    assert old.fingerprint != new.fingerprint


def test_an_upload_is_named_by_its_hash(tmp_path: Path, store: CodeStore, sources: CodeSources) -> None:
    sha256 = store.put(zipped(file("app.py", b"x"))).sha256
    environment = using(UPLOADED + sha256)
    assert (sources.find(environment, tmp_path / "s").folder / "app.py").read_bytes() == b"x"
    assert sources.used(environment) == [sha256]


def test_layers_lie_over_each_other_whatever_they_come_as(
    tmp_path: Path, store: CodeStore, sources: CodeSources
) -> None:
    app = folder(tmp_path / "app")
    one = store.put(zipped(file("a", b"one"), file("only", b"1"))).sha256
    two = store.put(zipped(file("a", b"two"))).sha256
    three = folder(tmp_path / "three", a="three", b="3")
    uploads = using(app, UPLOADED + one, UPLOADED + two)
    found = sources.find(uploads, tmp_path / "none").layers
    assert found is not None
    assert {each.name: each.read_text() for each in found.iterdir()} == {"a": "two", "only": "1"}
    assert not (tmp_path / "none").exists()
    assert sources.used(uploads) == [one, two, layered([one, two])]
    mixed = using(app, UPLOADED + one, three)
    found = sources.find(mixed, tmp_path / "scratch").layers
    assert found == tmp_path / "scratch"
    assert {each.name: each.read_text() for each in found.iterdir()} == {"a": "three", "only": "1", "b": "3"}
    assert sources.used(mixed) == [one]
    assert sources.find(using(app, three), tmp_path / "none").layers == three


def test_code_and_layers_together_are_limited(tmp_path: Path, sources: CodeSources) -> None:
    (tmp_path / "half.zip").write_bytes(bomb(zips.MAXIMUM_UNZIPPED_BYTES // 2 + 1))
    half = tmp_path / "half.zip"
    assert sources.fingerprint(using(half))
    with pytest.raises(InvalidParameterValue, match="Unzipped size must be smaller than 262144000 bytes"):
        sources.fingerprint(using(half, half))
    app = folder(tmp_path / "app")
    with (app / "sparse").open("wb") as sparse:
        sparse.truncate(zips.MAXIMUM_UNZIPPED_BYTES + 1)
    with pytest.raises(InvalidParameterValue, match="Unzipped size must be smaller than 262144000 bytes"):
        sources.fingerprint(using(app))


@pytest.mark.parametrize("code", ["nowhere", "nowhere.zip", "sha256:nothing", "app/file", f"sha256:{'A' * 43}="])
def test_code_that_is_not_there_is_said(tmp_path: Path, sources: CodeSources, code: str) -> None:
    folder(tmp_path / "app", file="x")
    with pytest.raises(LambentError) as caught:
        sources.find(using(code if code.startswith("sha") else tmp_path / code), tmp_path / "scratch")
    assert isinstance(caught.value, ResourceNotFound | InvalidParameterValue)


def test_a_zip_file_that_lies_is_refused(tmp_path: Path, sources: CodeSources) -> None:
    (tmp_path / "app.zip").write_bytes(zipped(file("../escaped")))
    with pytest.raises(InvalidParameterValue, match="Could not unzip"):
        sources.find(using(tmp_path / "app.zip"), tmp_path / "scratch")


def test_layers_that_do_not_fit_together_are_said(tmp_path: Path, sources: CodeSources) -> None:
    one, two = folder(tmp_path / "one", a="a file"), folder(tmp_path / "two" / "a").parent
    with pytest.raises(StoreUnavailable, match="laid over each other"):
        sources.find(using(tmp_path / "one", one, two), tmp_path / "scratch")
