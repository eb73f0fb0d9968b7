"""The limits on the host's own cgroups; as root, as `make test` runs. Without them these tests fail, and say so."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from towline.cgroup import Group, Hierarchy, Limits, _files, hierarchy

MIB = 1 << 20
HOG = "import sys\nx = bytearray(int(sys.argv[1]))\nprint(len(x))"
FORKS = """
import os, signal, sys
children = 0
try:
    for _ in range(40):
        if os.fork() == 0:
            signal.pause()
        children += 1
except BlockingIOError:
    pass
print(children)
"""


@pytest.fixture
def groups(request: pytest.FixtureRequest) -> Iterator[Hierarchy]:
    found = hierarchy(f"towline-test-{os.getpid()}")
    assert found.weakness is None, found.weakness
    yield found
    found.close()
    assert not any(top.exists() for top in found.tops.values())


def run(group: Group, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    argv = group.enter(group.inside(["/usr/bin/python3", "-S", "-c", code, *arguments]))
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20)


def test_a_process_over_the_memory_limit_is_killed_and_the_limit_is_named(groups: Hierarchy) -> None:
    group = groups.group("hog", Limits(memory_bytes=32 * MIB))
    assert run(group, HOG, str(128 * MIB)).returncode == -signal.SIGKILL
    assert group.exceeded() == "the memory limit of 32 MiB"


def test_a_process_under_its_limits_runs_and_exceeds_nothing(groups: Hierarchy) -> None:
    group = groups.group("modest", Limits(memory_bytes=256 * MIB, processes=20, cpus=1.0, file_bytes=MIB))
    assert run(group, HOG, str(8 * MIB)).stdout == f"{8 * MIB}\n"
    assert group.exceeded() is None


def test_processes_over_the_limit_are_not_born_and_all_are_killed(groups: Hierarchy) -> None:
    group = groups.group("forks", Limits(processes=10))
    with subprocess.Popen(
        group.enter(["/usr/bin/python3", "-S", "-c", FORKS]), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "9\n"
        assert group.exceeded() == "the limit of 10 processes"
        assert group.processes()
        group.kill()
        assert group.processes() == set()


def test_without_a_limit_the_same_processes_are_born(groups: Hierarchy) -> None:
    group = groups.group("free", Limits())
    with subprocess.Popen(
        group.enter(["/usr/bin/python3", "-S", "-c", FORKS]), stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "40\n"
        assert len(group.processes()) >= 40
        group.remove()


def test_a_file_over_the_limit_is_not_written(groups: Hierarchy, tmp_path: Path) -> None:
    group = groups.group("files", Limits(file_bytes=MIB))
    run(group, "import sys; open(sys.argv[1], 'wb').write(bytes(4 << 20))", str(tmp_path / "large"))
    assert (tmp_path / "large").stat().st_size <= MIB


def test_what_a_predecessor_left_is_ended_by_the_sweep(groups: Hierarchy) -> None:
    group = groups.group("left", Limits(processes=10))
    with subprocess.Popen(group.enter(["/bin/sleep", "600"])) as child:
        deadline = time.monotonic() + 10
        while not group.processes() and time.monotonic() < deadline:
            pass
        Hierarchy(groups.tops).sweep()
        assert child.wait(timeout=10) == -signal.SIGKILL
    assert not any(folder.exists() for folder in group.folders)


def test_a_group_that_cannot_be_joined_runs_nothing(tmp_path: Path) -> None:
    group = Group(Limits(), (tmp_path / "missing",))
    assert run(group, "print('ran')").stdout == ""
    assert run(group, "print('ran')").returncode == 125


def test_version_2_gets_the_same_limits_in_its_own_files() -> None:
    limits = Limits(memory_bytes=64 * MIB, processes=7, cpus=1.5)
    assert dict(_files("v2", limits)) == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }
    v1 = {**dict(_files("memory", limits)), **dict(_files("pids", limits)), **dict(_files("cpu", limits))}
    assert v1["memory.limit_in_bytes"] == str(64 * MIB)
    assert (v1["pids.max"], v1["cpu.cfs_quota_us"]) == ("7", "150000")


def test_without_cgroups_memory_and_processes_are_limited_by_process() -> None:
    plain = Hierarchy(weakness="said").group("plain", Limits(memory_bytes=64 * MIB, processes=5))
    result = run(plain, HOG, str(256 * MIB))
    assert result.returncode == 1
    assert "MemoryError" in result.stderr
    shown = subprocess.run(
        plain.inside(["/bin/sh", "-c", "ulimit -p"]), check=True, capture_output=True, text=True, timeout=20
    )
    assert shown.stdout == "5\n"
