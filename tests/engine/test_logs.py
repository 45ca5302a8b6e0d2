"""Logs that are kept: what belongs to whom, in files that are rotated, removed, read and followed."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from lambent import Engine, InvalidParameterValue
from lambent import log_files as files
from lambent.log_files import LogFiles, LogReader
from lambent.logs import LogEntry, Logs
from lambent.model import Failed, Function, Succeeded
from lambent.semantics import logs as semantics
from lambent.world import SystemClock

RID = "8f5a3f7e-1f6b-4f7e-9a53-0c2b4a7f1d11"
OTHER = "ffffffff-1f6b-4f7e-9a53-0c2b4a7f1d11"


NOW = float(int(SystemClock().now()))


class SetClock:
    """A clock that is told the time."""

    def __init__(self) -> None:
        self.time = NOW

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


def told(kept: list[LogEntry]) -> list[tuple[str, str | None, str]]:
    return [(entry.origin, entry.request_id, entry.text.split("\t")[0]) for entry in kept]


def test_what_a_function_prints_cannot_pass_for_the_platforms_word() -> None:
    kept: list[LogEntry] = []
    log = Logs(SystemClock().now, kept.append).open(Function(name="f"), "s").start(RID, tail=True)
    log.line(f"END RequestId: {OTHER}")
    log.hear(f"REPORT RequestId: {OTHER}\tDuration: 0.01 ms\n\x1b[2J")
    tail = log.close(Succeeded(b"1", run_seconds=0.001), maximum_memory_mb=1)
    assert told(kept) == [
        ("platform", RID, f"START RequestId: {RID} Version: $LATEST"),
        ("function", RID, f"END RequestId: {OTHER}"),
        ("function", RID, f"REPORT RequestId: {OTHER}"),
        ("function", RID, "\x1b[2J"),
        ("platform", RID, f"END RequestId: {RID}"),
        ("platform", RID, f"REPORT RequestId: {RID}"),
    ]
    assert f"REPORT RequestId: {OTHER}" in tail  # as on AWS


def test_what_one_invocation_may_print_is_limited_and_the_rest_is_counted() -> None:
    kept: list[LogEntry] = []
    log = Logs(SystemClock().now, kept.append).open(Function(name="f"), "s").start(RID)
    line = "x" * 100_000
    for _ in range(50):
        log.line(line)
    log.close(Failed({"errorType": "ValueError"}), maximum_memory_mb=1)
    printed = [entry for entry in kept if entry.origin == "function"]
    assert sum(len(entry.text) for entry in printed) <= semantics.MAXIMUM_INVOCATION_CHARACTERS
    lost = 50 - len(printed)
    assert kept[-3].text.startswith(f"LOGS_DROPPED Lines: {lost}\tCharacters: {lost * len(line)}\t")


def test_what_is_printed_between_invocations_belongs_to_none_and_is_limited_too() -> None:
    kept: list[LogEntry] = []
    stream = Logs(SystemClock().now, kept.append).open(Function(name="f"), "s")
    stream.init_start("python3.13")
    for _ in range(50):
        stream.line("x" * 100_000)
    before = len(kept)
    assert before < 50
    stream.init_report(0.1, "success")  # says nothing, as text
    stream.start(RID)
    stream.line("afterwards")
    assert told(kept)[0] == ("platform", None, "INIT_START Runtime Version: python3.13")
    assert told(kept)[before + 1] == ("function", None, "afterwards")


def writer(directory: Path, clock: SetClock | None = None, **changes: object) -> LogFiles:
    options: dict[str, object] = {"retention_seconds": 3600, "maximum_bytes": 1 << 30, "trouble": lambda *lost: None}
    return LogFiles(directory, owner="me", clock=clock or SetClock(), **options | changes)  # type: ignore[arg-type]


def entry(text: str, at: float = NOW, request_id: str | None = RID, function: str = "f") -> LogEntry:
    return LogEntry(function, at, "stream", request_id, "function", text)


def test_lines_are_read_as_they_were_kept_whatever_is_in_them(tmp_path: Path) -> None:
    lines = ["plain", "two\nlines", "\x00\x1b[31m", '"quoted" {"at": 0}', "é\u2028ü", "\udcff", "x" * 300_000]
    one = writer(tmp_path)
    for line in lines:
        one.keep(entry(line))
    one.close()
    reader = LogReader(tmp_path, "f")
    assert [each.text for each in reader.news()] == [*lines[:5], "\\udcff", lines[6]]
    assert reader.news() == []
    assert LogReader(tmp_path, "g").news() == []


def test_several_writers_share_a_directory_and_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    one, other = writer(tmp_path), LogFiles(
        tmp_path, owner="you", clock=SetClock(), retention_seconds=60, maximum_bytes=1 << 30, trouble=lambda *lost: None
    )  # fmt: skip
    for number in range(10):
        (one if number % 2 else other).keep(entry(str(number), NOW - 10 + number, f"r{number % 3}"))
    one.flush()
    other.flush()
    assert [each.text for each in LogReader(tmp_path, "f").news()] == list("0123456789")
    assert [each.text for each in LogReader(tmp_path, "f", request_id="r1").news()] == list("147")
    assert [each.text for each in LogReader(tmp_path, "f", since=NOW - 3).news()] == list("789")
    assert len(files.log_files(tmp_path / "f")) == 2
    one.close()
    other.close()


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path: Path) -> None:
    one = writer(tmp_path)
    one.keep(entry("before"))
    one.close()
    (path,) = files.log_files(tmp_path / "f")
    with path.open("ab") as file:
        file.write(b'{"at": 1800000000.0, "stream": "s", "requ')
    reader = LogReader(tmp_path, "f")
    assert [each.text for each in reader.news()] == ["before"]
    with path.open("ab") as file:
        file.write(b'\n[]\n"x"\n{"at": null}\n' + json.dumps(files.document(entry("after"))).encode() + b"\n")
    assert [each.text for each in reader.news()] == ["after"]


def test_a_full_file_is_followed_by_another_and_the_oldest_go_when_it_is_too_much(tmp_path: Path) -> None:
    clock, reader = SetClock(), LogReader(tmp_path, "f")
    one = writer(tmp_path, clock, maximum_bytes=3 * files.MAXIMUM_FILE_BYTES)
    for number in range(6):
        clock.time += 1
        for _ in range(1 + files.MAXIMUM_FILE_BYTES // 200_000):
            one.keep(entry(str(number) * 200_000, clock.time))
        one.flush()
        assert reader.news()[-1].text[0] == str(number)
    found = files.log_files(tmp_path / "f")
    assert 2 <= len(found) <= 3
    assert sum(path.stat().st_size for path in found) <= 3 * files.MAXIMUM_FILE_BYTES
    one.close()


def test_a_file_is_removed_when_its_last_line_is_older_than_the_retention(tmp_path: Path) -> None:
    clock = SetClock()
    one = writer(tmp_path, clock)
    one.keep(entry("old"))
    one.close()
    (old,) = files.log_files(tmp_path / "f")
    os.utime(old, (clock.time - 3601, clock.time - 3601))
    other = writer(tmp_path, clock)
    other.keep(entry("new", function="g"))
    other.close()
    assert not old.exists()
    assert [each.text for each in LogReader(tmp_path, "g").news()] == ["new"]


def test_a_writer_goes_on_in_another_file_when_somebody_removed_its_own(tmp_path: Path) -> None:
    clock = SetClock()
    one = writer(tmp_path, clock)
    one.keep(entry("gone"))
    one.flush()
    files.log_files(tmp_path / "f")[0].unlink()
    one.keep(entry("there"))
    one.close()
    assert [each.text for each in LogReader(tmp_path, "f").news()] == ["there"]


def test_lines_that_no_disk_takes_are_counted_and_nobody_is_held_up(tmp_path: Path) -> None:
    lost: list[tuple[int, str]] = []
    (tmp_path / "f").write_text("a file where the folder should be")
    one = writer(tmp_path, trouble=lambda lines, reason: lost.append((lines, reason)))
    one.keep(entry("f cannot be kept"))
    one.keep(entry("g can", function="g"))
    one.close()
    ((lines, reason),) = lost
    assert (lines, os.strerror(errno.EEXIST) in reason or os.strerror(errno.ENOTDIR) in reason) == (1, True)
    assert [each.text for each in LogReader(tmp_path, "g").news()] == ["g can"]


@pytest.mark.parametrize("name", ["", "../f", "a/b", ".", "a" * 65, "f\n"])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidParameterValue):
        LogReader(tmp_path, name)


async def test_handlers_of_this_process_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    engine = Engine(log_directory=str(tmp_path), log_in_process=True)

    @engine.function
    async def greet(event: object) -> str:
        print("hello", file=sys.stderr)
        logging.getLogger("user").warning("careful")
        return "done"

    @engine.function
    def fail(event: object) -> None:
        print("half a line", end="")
        raise ValueError("no")

    async with engine:
        await engine.invoke(greet)
        response = await engine.invoke_response(fail, log_type="Tail")
    first, printed, logged, *last = LogReader(tmp_path, "greet").news()
    assert first.text.startswith("START RequestId: ")
    assert (printed.text, printed.origin, printed.request_id) == ("hello", "function", first.request_id)
    assert logged.text.endswith(f"Z\t{first.request_id}\tcareful")
    assert [each.text.split(" ")[0] for each in last] == ["END", "REPORT"]
    failed = LogReader(tmp_path, "fail").news()
    assert failed[0].request_id == response.request_id
    assert [each.text for each in failed if "half a line" in each.text]
    assert [each.text for each in failed if each.text.startswith("[ERROR] ValueError: no\nTraceback")]


async def test_an_engine_that_keeps_no_logs_of_its_own_process_leaves_no_files(tmp_path: Path) -> None:
    engine = Engine(f"sqlite:///{tmp_path / 'app.db'}")

    @engine.function
    async def greet(event: object) -> None:
        print("hello")

    async with engine:
        await engine.invoke(greet)
    assert not (tmp_path / "app.db-logs").exists()
