"""What a person reads of a job that failed, and what is kept of its output."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.events import Verdict
from towline.project.model import Job
from towline_ci_runner.sandbox.output import Output
from towline_ci_runner.sandbox.report import problem_of, verdict_of
from towline_ci_runner.sandbox.sandbox import Done

JOB = Job(name="unit", run=("make test",), timeout="2m")
NOW = datetime(2026, 1, 2, tzinfo=UTC)


def failed(log: str | bytes, *, exit_code: int = 1, exceeded: str | None = None) -> Done:
    return Done(
        log=log if isinstance(log, bytes) else log.encode(), exit_code=exit_code, started=NOW, exceeded=exceeded
    )


PYTEST = """\
    def test_sum():
>       assert 1 + 1 == 3
E       assert 2 == 3

tests/test_sum.py:4: AssertionError
=========================== short test summary info ============================
FAILED tests/test_sum.py::test_sum - assert 2 == 3
1 failed in 0.01s
"""
GO = "--- FAIL: TestSum (0.00s)\n    sum_test.go:8: got 2\nFAIL\nexit status 1\n"


@pytest.mark.parametrize(
    ("log", "named"),
    [
        (
            f"ERROR: test_sum (tests.Sum.test_sum)\n{'x' * 99}\n" + "noise\n" * 50,
            "ERROR: test_sum (tests.Sum.test_sum)",
        ),
        (PYTEST + "noise\n" * 50, "FAILED tests/test_sum.py::test_sum - assert 2 == 3"),
        (GO + "noise\n" * 50, "--- FAIL: TestSum (0.00s)"),
    ],
)
def test_a_failed_test_is_named_however_much_was_written_after_it(log: str, named: str) -> None:
    lines = problem_of(JOB, failed(log)).message.split("\n")
    assert lines[:2] == ["job unit failed with exit code 1", named]


def test_the_last_lines_are_quoted_without_what_steers_a_terminal() -> None:
    problem = problem_of(
        JOB, failed("\n".join(map(str, range(100))) + "\n\x1b[31mred\x1b[0m\x07\x00 \xe9\n50%\r100%\n\n")
    )
    assert problem.message.split("\n")[-3:] == ["99", "red \xe9", "100%"]
    assert len(problem.message.split("\n")) == 13


def test_the_place_of_the_last_traceback_is_told() -> None:
    trace = 'Traceback:\n  File "/workspace/a/tests.py", line 12, in x\n  File "/usr/lib/python3/x.py", line 1, in y\n'
    problem = problem_of(JOB, failed(trace))
    assert (problem.file, problem.line) == ("a/tests.py", 12)
    outside = problem_of(JOB, failed('  File "/workspace/../etc/shadow", line 1\n  File "../x", line 2\n'))
    assert (outside.file, outside.line) == (None, None)


def test_a_limit_a_timeout_and_too_much_output_are_said() -> None:
    killed = problem_of(JOB, failed("", exit_code=137, exceeded="the memory limit of 64 MiB"))
    assert killed.message == "job unit failed with exit code 137; it ran into the memory limit of 64 MiB"
    slow = problem_of(JOB, Done(log=b"at 5\n", ended="timeout", started=NOW))
    assert slow.message == "job unit was ended after its timeout of 2m; make it faster or raise `timeout`\nat 5"
    loud = problem_of(JOB, Done(ended="output", started=NOW))
    assert loud.message == "job unit was ended because it wrote too much output; write less, or into files"


def test_the_exit_code_is_the_verdict() -> None:
    assert verdict_of(failed("", exit_code=0)) is Verdict.VALID
    assert verdict_of(failed("", exit_code=1)) is Verdict.INVALID
    assert verdict_of(Done(ended="timeout")) is Verdict.INVALID
    assert verdict_of(Done(ended="cancelled")) is Verdict.CANCELLED
    assert verdict_of(Done(refused="a link leads out")) is Verdict.INVALID


@given(st.binary(max_size=5000))
def test_a_message_is_bounded_and_printable_whatever_was_written(log: bytes) -> None:
    message = problem_of(JOB, failed(log)).message
    assert len(message.encode()) < 4000
    assert all(char.isprintable() or char in "\n\t" for char in message)


@given(st.lists(st.binary(max_size=50), max_size=40), st.integers(8, 200))
def test_output_within_the_bound_is_kept_whole_and_else_its_ends_are(chunks: list[bytes], most: int) -> None:
    output, whole = Output(most), b"".join(chunks)
    for chunk in chunks:
        output.add(chunk)
    kept = output.kept()
    assert output.total == len(whole)
    if len(whole) <= most:
        assert kept == whole
    else:
        assert kept.startswith(whole[: most // 4])
        assert kept.endswith(whole[-(most - most // 4) :])
        assert b"\n[... %d bytes are left out ...]\n" % (len(whole) - most) in kept
