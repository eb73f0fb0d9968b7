"""How a failed job's output is shown: its sentence once, its end below, one line in a timeline."""

from __future__ import annotations

from datetime import UTC, datetime

from towline_cli.show import change_lines, problem_lines
from towline_cli.view import progress, timeline
from towline_cli.view.facts import Fact

OUTPUT = "job unit failed with exit code 1\n" + "\n".join(f"line {number}" for number in range(20))
REJECTED = {
    "change": "localhost/git/app!rude",
    "head": "a" * 40,
    "stage": "pipeline",
    "reason": f"The pipeline failed: tests.py:8: {OUTPUT}",
    "problems": [{"message": OUTPUT, "file": "tests.py", "line": 8}],
}
FACT = Fact("candidate.rejected", "1", datetime(2026, 1, 1, tzinfo=UTC), REJECTED)


def test_a_status_says_the_sentence_once_and_shows_the_end_of_the_output() -> None:
    (view,) = progress.changes([FACT]).values()

    assert change_lines(view, {"localhost/git/app": "app"}) == [
        "rejected  app!rude",
        "          The pipeline failed: tests.py:8: job unit failed with exit code 1",
        *(f"            | line {number}" for number in range(12, 20)),
    ]


def test_a_timeline_has_one_line_for_it() -> None:
    (line,) = timeline.timeline([FACT], "localhost/git/app!rude")

    assert line.text == (
        "candidate.rejected (pipeline) The pipeline failed: tests.py:8: job unit failed with exit code 1"
    )
    assert line.details == ()


def test_a_problem_without_output_is_one_line() -> None:
    assert problem_lines("deploy/app.yaml:6: expected a whole number") == ["deploy/app.yaml:6: expected a whole number"]
