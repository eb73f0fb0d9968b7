"""Limits for a tree of processes: memory, number of processes, processor time. cgroup v1 and v2 behind one interface.

What must hold:

- a group's limits stand before its first process runs: whoever enters does it by `Group.enter`, never afterwards;
- killing a group kills every process in it, also one that forks as fast as it can;
- what a killed predecessor left under the same name is found and ended by `sweep`.

Where no hierarchy can be written (not root, or a container without one) resource limits of single processes are what
is left; `Hierarchy.weakness` says it in one sentence, for the caller to tell once.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_CPU_PERIOD = 100_000
"""Microseconds; the kernel's default."""
_GONE_WITHIN = 5.0
"""Seconds that killed processes may take to leave a group."""

_ENTER = """\
n=$1; shift
while [ "$n" -gt 0 ]; do echo 0 >"$1" || exit 125; shift; n=$((n - 1)); done
ulimit -c 0
for limit; do
  shift
  case $limit in --) break ;; *) ulimit "${limit%=*}" "${limit#*=}" || exit 125 ;; esac
done
exec "$@"
"""
"""For /bin/sh: number of files, files to write 0 to, `-option=value` limits, `--`, the command."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not limited."""

    memory_bytes: int | None = None
    """Of all processes together, tmpfs and page cache that cannot be dropped included."""
    processes: int | None = None
    cpus: float | None = None
    """Processors' worth of time: 1.5 is one and a half."""
    file_bytes: int | None = None
    """Size of one file that a process writes."""


@dataclass(frozen=True, slots=True)
class Group:
    """One limited tree of processes. `folders` are its cgroups: one by v2, one a controller by v1, none without."""

    limits: Limits
    folders: tuple[Path, ...] = ()
    _rlimits: tuple[str, ...] = ()
    _rlimits_inside: tuple[str, ...] = ()

    def enter(self, argv: Sequence[str]) -> list[str]:
        """The command that joins the group and becomes `argv`. It exits with 125 when it cannot join."""
        procs = [str(folder / "cgroup.procs") for folder in self.folders]
        return ["/bin/sh", "-c", _ENTER, "enter", str(len(procs)), *procs, *self._rlimits, "--", *argv]

    def inside(self, argv: Sequence[str]) -> list[str]:
        """As `enter`, for the innermost command of a jail: what could only be limited in its own namespace."""
        if not self._rlimits_inside:
            return list(argv)
        return ["/bin/sh", "-c", _ENTER, "enter", "0", *self._rlimits_inside, "--", *argv]

    def exceeded(self) -> str | None:
        """Which limit was run into, in words; None for none, and where there is no cgroup to ask."""
        limits = self.limits
        if limits.memory_bytes and self._count("memory.events", "oom_kill", "memory.oom_control") > 0:
            return f"the memory limit of {limits.memory_bytes >> 20} MiB"
        if limits.processes and self._count("pids.events", "max") > 0:
            return f"the limit of {limits.processes} processes"
        return None

    def processes(self) -> set[int]:
        pids: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError):
                pids.update(map(int, (folder / "cgroup.procs").read_text().split()))
        return pids - {0}

    def kill(self) -> None:
        """End every process; returns when none is left, or after 5 seconds."""
        for folder in self.folders:
            _write(folder / "cgroup.kill", "1")
            _write(folder / "pids.max", "0")  # what is left cannot grow while it is being killed
        until = time.monotonic() + _GONE_WITHIN
        while (pids := self.processes()) and time.monotonic() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    def remove(self) -> None:
        """Kill what is left and give the group back. Blocks for some milliseconds; harmless when repeated."""
        self.kill()
        until = time.monotonic() + _GONE_WITHIN
        for folder in self.folders:
            while folder.exists():
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.002)

    def _count(self, file: str, word: str, v1_file: str | None = None) -> int:
        for folder in self.folders:
            for name in (file, v1_file):
                if name and (found := re.search(rf"^{word} (\d+)$", _read(folder / name), re.MULTILINE)):
                    return int(found[1])
        return 0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups are made: under `tops`, one folder a controller by v1 and one in all by v2."""

    tops: Mapping[str, Path] = field(default_factory=dict)
    """`v2`, or the v1 controllers `memory`, `pids` and `cpu` → this instance's folder."""
    weakness: str | None = None
    """One sentence on what is not limited here; None when everything is."""

    def group(self, name: str, limits: Limits) -> Group:
        """A new group; one of the same name that a predecessor left is ended first. Raises OSError."""
        folders = {kind: top / name for kind, top in self.tops.items()}
        files = () if limits.file_bytes is None else (f"-f={limits.file_bytes // 512}",)
        if not folders:
            return Group(limits, (), files + _memory_rlimit(limits), _process_rlimit(limits))
        group = Group(limits, tuple(folders.values()), files)
        if any(folder.exists() for folder in folders.values()):
            group.remove()
        for kind, folder in folders.items():
            folder.mkdir()
            for file, value in _files(kind, limits):
                target = folder / file
                if target.exists():
                    target.write_text(value)
        return group

    def sweep(self) -> None:
        """End and remove every group of this instance; for the start, before the first group is made."""
        for top in self.tops.values():
            for folder in top.iterdir():
                if folder.is_dir():
                    Group(Limits(), (folder,)).remove()

    def close(self) -> None:
        """Give the instance's own folders back."""
        self.sweep()
        for top in self.tops.values():
            with contextlib.suppress(OSError):
                top.rmdir()


def hierarchy(instance: str) -> Hierarchy:
    """This instance's place in the host's cgroups, made if need be. `instance` is a file name; never raises."""
    if os.geteuid() == 0:
        mounts = list(_mounts())
        for kind, root in mounts:
            if kind == "v2" and (top := _v2_top(root, instance)):
                return Hierarchy({"v2": top})
        v1 = {kind: root / instance for kind, root in mounts if kind in {"memory", "pids", "cpu"}}
        if {"memory", "pids"} <= v1.keys() and all(_made(top) for top in v1.values()):
            return Hierarchy(v1)
    return Hierarchy(
        weakness="no cgroup hierarchy can be written here: memory is limited for each process alone, "
        "the processor not at all (root, or a container with a writable /sys/fs/cgroup, is needed for more)"
    )


def _files(kind: str, limits: Limits) -> Iterator[tuple[str, str]]:
    quota = None if limits.cpus is None else max(1_000, int(limits.cpus * _CPU_PERIOD))
    if kind == "v2" and limits.memory_bytes is not None:
        yield from (("memory.max", str(limits.memory_bytes)), ("memory.swap.max", "0"))
    if kind == "memory" and limits.memory_bytes is not None:
        yield "memory.limit_in_bytes", str(limits.memory_bytes)
        yield "memory.memsw.limit_in_bytes", str(limits.memory_bytes)
    if kind in {"v2", "pids"} and limits.processes is not None:
        yield "pids.max", str(limits.processes)
    if kind == "v2" and quota is not None:
        yield "cpu.max", f"{quota} {_CPU_PERIOD}"
    if kind == "cpu" and quota is not None:
        yield from (("cpu.cfs_period_us", str(_CPU_PERIOD)), ("cpu.cfs_quota_us", str(quota)))


def _memory_rlimit(limits: Limits) -> tuple[str, ...]:
    return () if limits.memory_bytes is None else (f"-v={limits.memory_bytes >> 10}",)


def _process_rlimit(limits: Limits) -> tuple[str, ...]:
    """Counted for each uid of a user namespace, so it means something only inside of the jail."""
    return () if limits.processes is None else (f"-p={limits.processes}",)


def _mounts() -> Iterator[tuple[str, Path]]:
    """(`v2` or a v1 controller, where it is mounted)."""
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        where, (fstype, *_, options) = Path(before.split(" ")[4]), after.split(" ")
        if fstype == "cgroup2":
            yield "v2", where
        elif fstype == "cgroup":
            yield from ((option, where) for option in options.split(",") if option in {"memory", "pids", "cpu"})


def _v2_top(root: Path, instance: str) -> Path | None:
    """The instance's folder with memory, pids and cpu to give on; at the root, or below our own group."""
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
    wanted = {"memory", "pids"}
    for parent in dict.fromkeys((root, root / own.strip("/"))):
        if not wanted <= set(_read(parent / "cgroup.controllers").split()):
            continue
        _enable(parent)
        top = parent / instance
        if not _made(top):
            continue
        _enable(top)
        if wanted <= set(_read(top / "cgroup.subtree_control").split()):
            return top
        with contextlib.suppress(OSError):
            top.rmdir()
    return None


def _enable(folder: Path) -> None:
    for controller in ("memory", "pids", "cpu"):
        _write(folder / "cgroup.subtree_control", f"+{controller}")


def _made(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, value: str) -> None:
    """Where the file exists and takes it; a cgroup never gets new files."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
