"""Runs every measurement in this folder and writes what was measured to docs/figures.md.

A measurement is a file `bench/<name>.py` that prints one JSON object per line: `figure`, `value`, `unit`, and where
there is one `floor` or `peer`, `ratio`, `limit`, `ok`. The rule that must hold: a figure over its limit, a measurement
that fails, one that takes too long and one that measures nothing all end in exit code 1 and stand on the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
PAGE = ROOT / "docs" / "figures.md"
LONGEST_S = 1800.0
"""For one measurement, parts started and stopped included."""


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str
    beside: str
    """What it was measured against in the same run: `floor 1.2`, `peer 3.4`; empty where there is nothing."""
    ratio: float | None
    limit: float | None
    ok: bool


@dataclass(frozen=True)
class Measured:
    """What one file came to. `problem` is one sentence where it did not come to its end as it should."""

    file: str
    figures: tuple[Figure, ...]
    seconds: float
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None and all(figure.ok for figure in self.figures)


class HalfAFigure(Exception):
    """A line names a figure but not what was measured."""


def figure_of(line: str) -> Figure | None:
    """None for a line that is no figure. Raises HalfAFigure."""
    try:
        said: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(said, dict) or "figure" not in said:
        return None
    name, value, unit = said["figure"], said.get("value"), said.get("unit")
    if not isinstance(value, int | float) or isinstance(value, bool) or not isinstance(unit, str):
        raise HalfAFigure(f"{name} has no value with a unit")
    beside = next((f"{kind} {_number(said[kind])}" for kind in ("floor", "peer") if said.get(kind) is not None), "")
    return Figure(
        str(name), float(value), unit, beside, said.get("ratio"), said.get("limit"), said.get("ok") is not False
    )


def collect(file: str, code: int, output: str, seconds: float) -> Measured:
    """What a measurement printed, judged together with how it ended."""
    try:
        figures = tuple(found for line in output.splitlines() if (found := figure_of(line)) is not None)
    except HalfAFigure as error:
        return Measured(file, (), seconds, f"{error}")
    if code != 0 and all(figure.ok for figure in figures):
        return Measured(file, figures, seconds, f"ended with exit code {code}")
    return Measured(file, figures, seconds, None if figures else "measured nothing")


def measure(file: Path, *, quick: bool, longest_s: float = LONGEST_S) -> Measured:
    """Runs one file; what it says besides figures goes through to the terminal."""
    command = [sys.executable, str(file), *(["--quick"] if quick else [])]
    started = time.monotonic()
    try:
        ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=longest_s, check=False)
    except subprocess.TimeoutExpired:
        return Measured(file.name, (), time.monotonic() - started, f"took more than {longest_s:g} s and was ended")
    sys.stdout.write(ended.stdout)
    return collect(file.name, ended.returncode, ended.stdout, time.monotonic() - started)


def files(folder: Path = BENCH) -> list[Path]:
    """Every measurement; what begins with an underscore is shared by them."""
    return sorted(each for each in folder.glob("*.py") if each.name != "run.py" and not each.name.startswith("_"))


def page(measured: Sequence[Measured], when: datetime, machine: str, *, quick: bool) -> str:
    how = "few rounds (`--quick`)" if quick else "all rounds"
    lines = [
        "# Figures",
        "",
        "<!-- written by `make bench`; change bench/, not this page -->",
        "",
        f"Measured {when:%Y-%m-%d %H:%M} UTC, {how}, on {machine}. A figure is measured, never asserted on time in a",
        "test. Floor: the bare call or tool in the same run; peer: another program that does the same.",
        "",
        "| figure | value | unit | beside it | ratio | limit | |",
        "|---|---:|---|---|---:|---:|---|",
    ]
    for each in measured:
        for figure in each.figures:
            mark = "ok" if figure.ok else "**over**"
            lines.append(
                f"| `{figure.name}` | {_number(figure.value)} | {figure.unit} | {figure.beside} | "
                f"{_number(figure.ratio)} | {_number(figure.limit)} | {mark} |"
            )
    problems = [f"- `bench/{each.file}` {each.problem}" for each in measured if each.problem]
    lines += ["", "## What could not be measured", "", *problems] if problems else []
    lines += ["", "| measurement | seconds |", "|---|---:|"]
    lines += [f"| `bench/{each.file}` | {each.seconds:.0f} |" for each in measured]
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    """Three digits that count; a dash where there is no number."""
    if not isinstance(value, int | float):
        return "–" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.release()}, {platform.machine()}"


def main(arguments: Sequence[str]) -> int:
    """`run.py [--quick] [NAME …]`: all measurements, or those named; only a whole run writes the page."""
    parser = argparse.ArgumentParser(description="Measure Towline's figures.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds; the same figures")
    parser.add_argument("names", nargs="*", help="measurements to run, without .py; all by default")
    chosen = parser.parse_args(arguments)
    known = files()
    unknown = set(chosen.names) - {each.stem for each in known}
    if unknown or not known:
        names = ", ".join(each.stem for each in known) or "none yet"
        sys.stderr.write(f"no measurement named {', '.join(sorted(unknown)) or '…'}; there is: {names}\n")
        return 2
    run = [each for each in known if not chosen.names or each.stem in chosen.names]
    measured = [measure(each, quick=chosen.quick) for each in run]
    text = page(measured, datetime.now(UTC), machine(), quick=chosen.quick)
    if not chosen.names:
        PAGE.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(each.ok for each in measured) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
