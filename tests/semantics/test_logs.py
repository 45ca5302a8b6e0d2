"""How a log reads: the words of the platform, levels, and what a function's output may not do."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambent.semantics import logs
from lambent.semantics.logs import Lines, LogStyle, Report, Tail

AT = "2026-11-26T12:00:00.000Z"
RID = "8f5a3f7e-1f6b-4f7e-9a53-0c2b4a7f1d11"
TEXT = LogStyle()
JSON = LogStyle("JSON", "INFO", "DEBUG")


def report(**changes: object) -> Report:
    return Report(
        **{"request_id": RID, "run_seconds": 0.0021, "memory_size_mb": 128, "maximum_memory_mb": 36} | changes
    )  # type: ignore[arg-type]


def test_a_report_line_is_to_the_letter_what_was_recorded() -> None:
    assert logs.report_line(TEXT, AT, report(run_seconds=0.00301, init_seconds=0.1101)) == (
        f"REPORT RequestId: {RID}\tDuration: 3.01 ms\tBilled Duration: 4 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 36 MB\tInit Duration: 110.10 ms\t"
    )
    assert logs.report_line(TEXT, AT, report(run_seconds=0.0029)) == (
        f"REPORT RequestId: {RID}\tDuration: 2.90 ms\tBilled Duration: 3 ms\tMemory Size: 128 MB\t"
        "Max Memory Used: 36 MB\t"
    )


def test_a_report_tells_what_the_environment_saw_and_not_what_the_function_raised() -> None:
    late = logs.report_line(TEXT, AT, report(run_seconds=3.0, status="timeout", error_type="Sandbox.Timedout"))
    gone = logs.report_line(TEXT, AT, report(status="error", error_type="Runtime.ExitError"))
    raised = logs.report_line(TEXT, AT, report(status="error", error_type="ValueError"))
    assert late is not None
    assert late.endswith("Max Memory Used: 36 MB\tStatus: timeout")
    assert gone is not None
    assert gone.endswith("Max Memory Used: 36 MB\tStatus: error\tError Type: Runtime.ExitError")
    assert raised is not None
    assert raised.endswith("Max Memory Used: 36 MB\t")


def test_json_has_the_platforms_events() -> None:
    begun = json.loads(logs.start(JSON, AT, RID, "7") or "")
    assert begun == {"time": AT, "type": "platform.start", "record": {"requestId": RID, "version": "7"}}
    told = json.loads(logs.report_line(JSON, AT, report(init_seconds=0.1, status="timeout", error_type="T")) or "")
    assert told["type"] == "platform.report"
    assert told["record"] == {
        "requestId": RID,
        "metrics": {
            "durationMs": 2.1,
            "billedDurationMs": 3,
            "memorySizeMB": 128,
            "maxMemoryUsedMB": 36,
            "initDurationMs": 100.0,
        },
        "status": "timeout",
        "errorType": "T",
    }
    ready = json.loads(logs.init_report(JSON, AT, 0.25, "success") or "")
    assert ready["record"] == {
        "initializationType": "on-demand", "phase": "init", "status": "success", "metrics": {"durationMs": 250.0}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "types"),
    [
        ("DEBUG", ["initStart", "initReport", "start", "runtimeDone", "report"]),
        ("INFO", ["initStart", "start", "report"]),
        ("WARN", []),
    ],
)
def test_the_system_log_level_chooses_among_the_platforms_events(level: str, types: list[str]) -> None:
    style = LogStyle("JSON", "INFO", level)
    said = [
        logs.init_start(style, AT, "python3.13"),
        logs.init_report(style, AT, 0.1, "success"),
        logs.start(style, AT, RID, "1"),
        logs.end(style, AT, report()),
        logs.report_line(style, AT, report()),
    ]
    assert [json.loads(each)["type"] for each in said if each] == [f"platform.{name}" for name in types]


def test_what_went_wrong_is_told_on_every_system_log_level() -> None:
    style = LogStyle("JSON", "FATAL", "WARN")
    failed = report(status="error", error_type="Runtime.ExitError")
    assert logs.init_report(style, AT, 10.0, "timeout")
    assert logs.end(style, AT, failed)
    assert logs.report_line(style, AT, failed)


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('{"level": "debug", "msg": "x"}', "DEBUG"),
        ('{"level": "WARNING"}', "WARN"),
        ('{"level":"CRITICAL"}', "FATAL"),
        ('{"level": "loud"}', "INFO"),
        ('{"level": 5}', "INFO"),
        ('{"message": "none"}', "INFO"),
        ("printed", "INFO"),
        ('{"level": "error"', "INFO"),
        ("[" * 100_000, "INFO"),
        ("{" * 100_000, "INFO"),
        ('{"a":' * 100_000, "INFO"),
    ],
)
def test_a_json_line_is_kept_from_its_level_on_and_info_where_it_says_none(line: str, level: str) -> None:
    kept = [each for each in logs.LEVELS if logs.wanted(LogStyle("JSON", each), line)]
    assert kept[-1] == level
    assert logs.wanted(LogStyle("Text", "FATAL"), line)


def test_an_error_reads_as_aws_writes_it() -> None:
    late = {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {RID} Error: Task timed out after 3.00 seconds",
    }
    assert logs.failure(TEXT, AT, RID, late) == f"{AT} {RID} Task timed out after 3.00 seconds"
    gone = {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {RID} Error: Runtime exited"}
    assert logs.failure(TEXT, AT, RID, gone) == f"RequestId: {RID} Error: Runtime exited\nRuntime.ExitError"
    raised = {"errorType": "ValueError", "errorMessage": "no", "stackTrace": ['  File "f.py", line 1, in f\n    no\n']}
    assert logs.failure(TEXT, AT, RID, raised) == (
        "[ERROR] ValueError: no\nTraceback (most recent call last):\n"
        '\xa0\xa0File "f.py", line 1, in f\n\xa0\xa0\xa0\xa0no'
    )
    as_json = json.loads(logs.failure(JSON, AT, RID, raised))
    assert (as_json["level"], as_json["errorType"], as_json["requestId"]) == ("ERROR", "ValueError", RID)


def test_a_line_that_is_too_long_is_cut_and_says_so() -> None:
    assert logs.cut("x" * 100) == "x" * 100
    assert logs.cut("x" * (logs.MAXIMUM_LINE_CHARACTERS + 5)).endswith("x… (5 characters more)")


@given(st.lists(st.binary(max_size=50)))
def test_lines_are_the_same_however_the_bytes_come(parts: list[bytes]) -> None:
    lines, at_once = Lines(), Lines()
    whole = b"".join(parts)
    told = [line for part in parts for line in lines.feed(part)] + lines.close()
    assert told == at_once.feed(whole) + at_once.close()
    assert not any("\n" in line for line in told)


def test_bytes_that_are_no_utf8_are_shown_and_a_line_without_end_is_given_in_parts() -> None:
    lines = Lines()
    assert lines.feed(b"a\xff\r\nb") == ["a\\xff"]
    assert lines.feed(b"c") == []
    assert lines.close() == ["bc"]
    size = logs.MAXIMUM_LINE_CHARACTERS
    assert [len(line) for line in lines.feed(b"x" * (2 * size + 1))] == [size, size]
    assert lines.close() == ["x"]
    assert lines.close() == []


@given(st.lists(st.text(max_size=3000), max_size=20))
def test_a_tail_is_the_last_four_kilobytes(parts: list[str]) -> None:
    tail = Tail()
    for part in parts:
        tail.add(part)
    whole = "".join(parts).encode("utf-8", "replace")
    assert tail.text() == whole[-logs.MAXIMUM_TAIL_BYTES :].decode("utf-8", "ignore")
