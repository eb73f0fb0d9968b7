"""Owns the order in which everything is checked, and the closing line `N passed, N failed`.

The rules that must hold: nothing passes silently. Every group runs even when one before it failed; a group without
tests, a skipped test, a part that could not be installed and a run that died before it reported are failures, and the
exit code says so. What the tests need is installed here, what takes long (Kubernetes, from source) beside the groups
that do without it; those come first.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
NO_TESTS_COLLECTED = 5
FAST = "not lab and not kafka and not whole_service"
# Debian's packages alone: bubblewrap is what even the fast tests of containment run in.
PACKAGES = """
from rich.console import Console
from towline_cli import lab
lab.ensure({lab.Part.REGISTRY}, lab.PlainProgress(Console(soft_wrap=True)))
"""
KAFKA = """
from rich.console import Console
from towline_cli import lab
lab.ensure({lab.Part.KAFKA}, lab.PlainProgress(Console(soft_wrap=True)))
"""
EVERY_PART = """
import os
from rich.console import Console
from towline_cli import lab
os.nice(10)  # the tests that run beside it go first
lab.ensure(progress=lab.PlainProgress(Console(soft_wrap=True)))
"""

NIGHTLY = """test-nightly: 2,000 histories per state machine, 2,000 simulation seeds, 50 seeds of each fault.
On 2 cores that takes about 3 hours. The seeds of the faults are others every day; one is run again by
TOWLINE_CHAOS_SEED=<seed> make test T=<case>, as its failure says."""

CHECKS: tuple[tuple[str, ...], ...] = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    ("uv", "lock", "--check"),
    ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"),
    ("python", "-m", "towline.docs", "--check"),
    ("python", "-m", "towline_cli.docs", "--check"),
)


@dataclass(frozen=True)
class Group:
    """One pytest call: `paths` are globs from the root of the repository; `fast` ones have tests without a server,
    `parts` says that some of its tests use more real parts than a Kafka."""

    name: str
    paths: tuple[str, ...]
    fast: bool = False
    parts: bool = False


GROUPS = (
    Group("unit", ("shared/tests", "services/*/tests"), fast=True),
    Group("contract", ("tests/contract",), fast=True),
    Group("simulation", ("tests/simulation",)),
    Group("kafka", ("tests/kafka",)),
    Group("flow", ("tests/flow",), parts=True),
    Group("lab", ("tests/lab",), parts=True),
    Group("chaos", ("tests/chaos",), parts=True),
)


@dataclass(frozen=True)
class Outcome:
    """What one group came to; `seconds` is wall time."""

    name: str
    passed: int
    failed: int
    seconds: float


def read_report(text: str) -> tuple[int, int]:
    """(passed, failed) of a JUnit report. Skipped and expected-to-fail tests count as failed: nothing is skipped."""
    passed = failed = 0
    for case in ET.fromstring(text).iter("testcase"):
        if any(child.tag in {"failure", "error", "skipped"} for child in case):
            failed += 1
        else:
            passed += 1
    return passed, failed


def judge(code: int, counts: tuple[int, int], *, filtered: bool) -> tuple[int, int]:
    """Makes a bad exit code visible in the counts even when no single test reported a failure."""
    passed, failed = counts
    if code == 0 or failed > 0 or (code == NO_TESTS_COLLECTED and filtered):
        return passed, failed
    return passed, 1


def closing_line(outcomes: list[Outcome]) -> str:
    """The last line of a run, in the one shape that other programs read."""
    passed, failed = sum(each.passed for each in outcomes), sum(each.failed for each in outcomes)
    return f"{passed} passed, {failed} failed"


def exit_code(outcomes: list[Outcome], *, filtered: bool) -> int:
    """0 only when something passed and nothing failed; a name that matches no test is a failure too."""
    if any(each.failed for each in outcomes):
        return 1
    if filtered and not any(each.passed for each in outcomes):
        return NO_TESTS_COLLECTED
    return 0


def _command(check: tuple[str, ...]) -> list[str]:
    if check[0] == "uv":
        return [os.environ.get("UV", "uv"), *check[1:]]
    return [str(BIN / check[0]), *check[1:]]


def _check_targets() -> list[str]:
    """mypy reads each distribution's sources, then all tests and benches that exist."""
    patterns = ("shared/src", "shared/tests", "services/*/src", "services/*/tests", "tests", "bench")
    return [str(path) for pattern in patterns for path in sorted(ROOT.glob(pattern)) if any(path.rglob("*.py"))]


def run_checks() -> Outcome:
    """Lint, format, types, import contracts, lock file, compose schema, generated documents: all, then the count."""
    started = time.monotonic()
    passed = failed = 0
    for check in CHECKS:
        command = _command(check) + (_check_targets() if check[0] == "mypy" else [])
        print(f"== check: {' '.join(check)}", flush=True)
        if subprocess.run(command, cwd=ROOT, check=False).returncode == 0:
            passed += 1
        else:
            failed += 1
            print(f"failed: {' '.join(check)}", flush=True)
    return Outcome("check", passed, failed, time.monotonic() - started)


def _test_folders(group: Group) -> list[str]:
    found = [path for pattern in group.paths for path in sorted(ROOT.glob(pattern))]
    return [str(path) for path in found if any(path.rglob("test_*.py"))]


def run_group(group: Group, *, name: str, marks: str) -> Outcome:
    """One pytest call for `group`; `name` narrows it (-k), `marks` too (-m); both empty for all of it."""
    folders, started = _test_folders(group), time.monotonic()
    print(f"== {group.name}", flush=True)
    if not folders:
        print(f"{group.name}: no tests in {', '.join(group.paths)}", flush=True)
        return Outcome(group.name, 0, 0 if name else 1, 0.0)
    with tempfile.TemporaryDirectory(prefix="towline-report-") as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *folders]
        command += (["-k", name] if name else []) + (["-m", marks] if marks else [])
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        counts = read_report(report.read_text(encoding="utf-8")) if report.exists() else (0, 1)
    passed, failed = judge(code, counts, filtered=bool(name or marks))
    seconds = time.monotonic() - started
    print(f"{group.name}: {seconds:.1f} s", flush=True)
    return Outcome(group.name, passed, failed, seconds)


class Installing:
    """Parts being installed by a process of its own; what it says is shown when it is waited for."""

    def __init__(self, program: str) -> None:
        self._started = time.monotonic()
        command = [sys.executable, "-c", program]
        self._process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def wait(self) -> Outcome:
        """One failed, and the part named, when not everything is there."""
        if self._process.poll() is None:
            print("== parts: waiting until they are installed", flush=True)
        said, _ = self._process.communicate()
        code = self._process.returncode
        # The last line of a traceback is the sentence that names the part.
        lines = [line for line in said.splitlines() if line.strip()]
        for line in lines if code == 0 else lines[-1:]:
            print(f"parts: {line}", flush=True)
        return Outcome("parts", 0, int(code != 0), time.monotonic() - self._started)

    def stop(self) -> None:
        """Ends it when nobody waits for it any more."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate()


def run_everything(groups: list[Group], *, checks: bool, name: str, marks: str) -> list[Outcome]:
    """Installs what `groups` need, and runs them in their order; the checks first, when they are wanted."""
    outcomes = [Installing(PACKAGES).wait()]
    kafka = Installing(KAFKA) if marks != FAST else None
    everything: Installing | None = None
    try:
        outcomes += [run_checks()] if checks else []
        if kafka is not None:
            outcomes.append(kafka.wait())
            everything = Installing(EVERY_PART)
        for group in groups:
            if everything is not None and group.parts:
                outcomes.append(everything.wait())
                everything = None
            outcomes.append(run_group(group, name=name, marks=marks))
    finally:
        for installing in (kafka, everything):
            if installing is not None:
                installing.stop()
    return outcomes


def main(arguments: list[str]) -> int:
    """`run.py check|fast|all|nightly [-k NAME]`."""
    parser = argparse.ArgumentParser(description="Run Towline's checks and tests.")
    parser.add_argument("what", choices=("check", "fast", "all", "nightly"))
    parser.add_argument("-k", dest="name", default="", help="run only tests matching this, as pytest -k does")
    chosen = parser.parse_args(arguments)
    if chosen.what in ("fast", "nightly"):
        os.environ["TOWLINE_PROFILE"] = chosen.what  # how many examples Hypothesis generates, see conftest.py
    if chosen.what == "nightly":
        print(NIGHTLY, flush=True)
    if chosen.what == "check":
        outcomes = [run_checks()]
    else:
        fast = chosen.what == "fast"
        groups = [each for each in GROUPS if each.fast or not fast]
        checks = not (chosen.name or fast)
        outcomes = run_everything(groups, checks=checks, name=chosen.name, marks=FAST if fast else "")
    print(f"\n{'group':<10} {'passed':>7} {'failed':>7} {'seconds':>8}")
    for each in outcomes:
        print(f"{each.name:<10} {each.passed:>7} {each.failed:>7} {each.seconds:>8.1f}")
    print(closing_line(outcomes))
    return exit_code(outcomes, filtered=bool(chosen.name))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
