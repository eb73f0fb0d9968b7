"""What a machine must have, and the sentence for each thing it lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from towline_cli.lab import preflight

GOOD = preflight.Machine(
    python=(3, 11),
    venv=True,
    git=(2, 39),
    go=(1, 26),
    java=(17, 0),
    maven=(3, 8),
    compiler=True,
    root=True,
    system="debian 12",
    disk=20 * preflight.GIGABYTE,
    disk_needed=preflight.COLD_DISK,
    memory=8 * preflight.GIGABYTE,
    ports=preflight.PORTS,
)


@pytest.mark.parametrize("purpose", preflight.PURPOSES)
def test_a_complete_machine_lacks_nothing(purpose: str) -> None:
    assert preflight.missing(GOOD, purpose) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": (3, 9)}, "Python 3.11 or newer"),
        ({"venv": False}, "python3-venv"),
        ({"git": None}, "Git 2.38 or newer"),
        ({"go": (1, 19)}, "found 1.19"),
        ({"java": None}, "Java 17.0 or newer"),
        ({"maven": None}, "Maven"),
        ({"compiler": False}, "C compiler"),
        ({"root": False}, "sudo -E make"),
        ({"system": "fedora 42"}, "this is fedora 42"),
        ({"system": "debian 11"}, "this is debian 11"),
        ({"disk": 3 * preflight.GIGABYTE}, "8 GB free"),
        ({"memory": 2 * preflight.GIGABYTE}, "this machine has 2.0 GB"),
        ({"ports": 3}, "3 could be opened"),
    ],
)
def test_each_missing_thing_gets_one_sentence(change: dict[str, object], words: str) -> None:
    sentences = preflight.missing(GOOD._replace(**change), "test")  # type: ignore[arg-type]

    assert len(sentences) == 1
    assert words in sentences[0]


def test_the_demo_on_sqlite_needs_no_java() -> None:
    assert preflight.missing(GOOD._replace(java=None, maven=None), "demo") == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("git version 2.39.5", (2, 39)),
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("openjdk 17 2021-09-14", (17, 0)),
        ("no number here", None),
    ],
)
def test_a_tools_own_version_line_is_read(text: str, version: tuple[int, int] | None) -> None:
    assert preflight.parse_version(text) == version


def test_it_runs_without_site_packages_and_names_the_compose_way(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-S", str(Path(preflight.__file__)), "demo"],
        env={"PATH": str(tmp_path), "TOWLINE_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "missing: Git" in done.stderr
    assert "docker compose up" in done.stderr
