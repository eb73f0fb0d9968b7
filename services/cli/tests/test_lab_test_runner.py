"""The runner behind `make test`: what counts as passed, and what it says at the end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

RUNNER = Path(__file__).resolve().parents[3] / "tests" / "run.py"


@pytest.fixture(scope="module")
def run() -> ModuleType:
    spec = importlib.util.spec_from_file_location("towline_test_runner", RUNNER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_skipped_test_counts_as_failed(run: ModuleType) -> None:
    report = (
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><skipped/></testcase></testsuite></testsuites>'
    )

    assert run.read_report(report) == (1, 1)


def test_a_run_that_collects_nothing_fails_unless_a_name_was_given(run: ModuleType) -> None:
    assert run.judge(run.NO_TESTS_COLLECTED, (0, 0), filtered=False) == (0, 1)
    assert run.judge(run.NO_TESTS_COLLECTED, (0, 0), filtered=True) == (0, 0)


def test_a_run_that_dies_after_its_last_test_fails(run: ModuleType) -> None:
    assert run.judge(3, (7, 0), filtered=False) == (7, 1)


def test_the_closing_line_sums_every_group(run: ModuleType) -> None:
    outcomes = [run.Outcome("unit", 5, 0, 1.0), run.Outcome("lab", 2, 1, 9.0)]

    assert run.closing_line(outcomes) == "7 passed, 1 failed"
    assert run.exit_code(outcomes, filtered=False) == 1


def test_a_name_that_matches_no_test_fails_the_run(run: ModuleType) -> None:
    assert run.exit_code([run.Outcome("unit", 0, 0, 1.0)], filtered=True) != 0


def test_a_group_whose_folder_holds_no_test_fails(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = run.run_group(run.Group("absent", ("tests/there-is-no-such-folder",)), name="", marks="")

    assert (outcome.passed, outcome.failed) == (0, 1)
    assert "no tests in" in capsys.readouterr().out


def test_a_part_that_cannot_be_installed_fails_the_run_and_is_named(
    run: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "from towline_cli.lab import LabError; raise LabError('kafka', 'no mirror answers.')"

    outcome = run.Installing(program).wait()

    assert (outcome.passed, outcome.failed) == (0, 1)
    assert "kafka: no mirror answers." in capsys.readouterr().out


def test_what_an_installation_says_is_shown_when_it_is_waited_for(
    run: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run.Installing("print('Kafka: done in 7.0 s')").wait()

    assert (outcome.passed, outcome.failed) == (0, 0)
    assert "parts: Kafka: done in 7.0 s" in capsys.readouterr().out
