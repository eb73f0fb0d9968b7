"""`bench/run.py`: what was measured stands on the page, and what is over its limit or was not measured fails."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOOD = {"figure": "flow.own", "value": 312.4, "unit": "ms", "limit": 500, "ok": True}


def _load() -> Any:
    spec = spec_from_file_location("bench_run", ROOT / "bench" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    import sys

    sys.modules["bench_run"] = module
    spec.loader.exec_module(module)
    return module


bench = _load()


def measurement(folder: Path, name: str, body: str) -> Path:
    file = folder / f"{name}.py"
    file.write_text(body)
    return file


def prints(*figures: dict[str, Any]) -> str:
    return "".join(f"print({json.dumps(json.dumps(figure))})\n" for figure in figures)


def test_figures_are_collected_and_other_lines_are_not(tmp_path: Path) -> None:
    file = measurement(tmp_path, "flow", "print('starting')\nprint('[1, 2]')\n" + prints(GOOD))
    [figure] = bench.measure(file, quick=False).figures
    assert (figure.name, figure.value, figure.unit, figure.limit) == ("flow.own", 312.4, "ms", 500)


def test_quick_is_passed_on(tmp_path: Path) -> None:
    file = measurement(tmp_path, "flow", "import sys\nassert sys.argv[1:] == ['--quick']\n" + prints(GOOD))
    assert bench.measure(file, quick=True).ok


def test_a_figure_that_is_not_ok_fails() -> None:
    line = json.dumps({**GOOD, "value": 900, "ok": False})
    assert not bench.collect("flow.py", 0, line, 1.0).ok


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("print('nothing')", "measured nothing"),
        (prints({"figure": "flow.own", "unit": "ms"}), "flow.own has no value with a unit"),
        ("import time\ntime.sleep(60)", "took more than 0.5 s and was ended"),
    ],
)
def test_a_measurement_that_does_not_measure_fails_and_says_so(tmp_path: Path, body: str, problem: str) -> None:
    measured = bench.measure(measurement(tmp_path, "flow", body), quick=False, longest_s=0.5)
    assert not measured.ok
    assert measured.problem == problem


def test_the_page_holds_every_figure_and_every_problem() -> None:
    good = bench.collect("flow.py", 0, json.dumps({**GOOD, "floor": 100.0, "ratio": 3.124}), 41.0)
    over = bench.collect("drift.py", 0, json.dumps({**GOOD, "figure": "drift", "value": 2500, "ok": False}), 9.0)
    none = bench.collect("cli.py", 1, "", 2.0)
    text = bench.page([good, over, none], datetime(2026, 1, 2, 3, 4, tzinfo=UTC), "2 cores", quick=True)
    assert "| `flow.own` | 312 | ms | floor 100 | 3.12 | 500 | ok |" in text
    assert "| `drift` | 2,500 | ms |  | – | 500 | **over** |" in text
    assert "- `bench/cli.py` ended with exit code 1" in text
    assert "few rounds" in text


def test_shared_files_and_the_runner_are_no_measurements(tmp_path: Path) -> None:
    for name in ("run", "_parts", "flow"):
        measurement(tmp_path, name, "")
    assert [file.stem for file in bench.files(tmp_path)] == ["flow"]


def test_a_name_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["no-such-measurement"]) == 2
    assert "no-such-measurement" in capsys.readouterr().err
