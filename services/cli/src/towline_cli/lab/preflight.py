"""Owns the question whether this machine can carry the lab, asked before anything is installed.

The rule that must hold: this file imports the standard library only and parses on any Python 3 a machine may
have, because it runs as `python3 -S preflight.py PURPOSE` while nothing else is there yet. It changes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

COMPOSE_WAY = (
    "On macOS or without root, run everything in containers instead: docker compose up --build (README.md says how)."
)
GIGABYTE = 1_000_000_000
COLD_DISK = 8 * GIGABYTE
WARM_DISK = 2 * GIGABYTE
MEMORY = 4 * GIGABYTE
# A "4 GB" machine shows a little less than it was sold with: the kernel keeps its share.
MEMORY_TOLERANCE = 0.9
PORTS = 12


class Machine(NamedTuple):
    """What was read off the machine; sizes in bytes, versions as (major, minor) or None when the tool is absent."""

    python: tuple[int, int]
    venv: bool
    git: tuple[int, int] | None
    go: tuple[int, int] | None
    java: tuple[int, int] | None
    maven: tuple[int, int] | None
    compiler: bool
    root: bool
    system: str
    disk: int
    disk_needed: int
    memory: int
    ports: int


if TYPE_CHECKING:
    Check = Callable[[Machine], "str | None"]


def _shown(version: tuple[int, int] | None) -> str:
    return "none was found" if version is None else f"found {version[0]}.{version[1]}"


def _tool(name: str, need: tuple[int, int], why: str, get: str) -> Check:
    attribute = name.lower()

    def check(machine: Machine) -> str | None:
        found = getattr(machine, attribute)
        if found is not None and found >= need:
            return None
        return f"{name} {need[0]}.{need[1]} or newer is needed (it {why}); {_shown(found)}: {get}."

    return check


def _venv(machine: Machine) -> str | None:
    if machine.venv:
        return None
    return "Python's venv module makes the work environment and is not there: apt-get install python3-venv."


def _compiler(machine: Machine) -> str | None:
    if machine.compiler:
        return None
    return "A C compiler (cc) builds the pause image; none was found: apt-get install gcc libc6-dev."


def _root(machine: Machine) -> str | None:
    if machine.root:
        return None
    return "Root is needed to install packages and run a Kubernetes node; you are not root: use sudo -E make."


def _debian(machine: Machine) -> str | None:
    name, _, version = machine.system.partition(" ")
    if name == "debian" and (not version.isdigit() or int(version) >= 12):
        return None
    return f"Debian 12 or newer is needed for its containerd and buildah; this is {machine.system or 'unknown'}."


def _disk(machine: Machine) -> str | None:
    if machine.disk >= machine.disk_needed:
        return None
    need, free = machine.disk_needed / GIGABYTE, machine.disk / GIGABYTE
    return (
        f"{need:.0f} GB free are needed in the cache folder; {free:.1f} GB are free: "
        "make room, or name another folder with CACHE=."
    )


def _memory(machine: Machine) -> str | None:
    if machine.memory >= MEMORY * MEMORY_TOLERANCE:
        return None
    need, there = MEMORY / GIGABYTE, machine.memory / GIGABYTE
    return f"{need:.0f} GB of memory are needed; this machine has {there:.1f} GB."


def _ports(machine: Machine) -> str | None:
    if machine.ports >= PORTS:
        return None
    return (
        f"{PORTS} free ports on 127.0.0.1 are needed; {machine.ports} could be opened: ss -ltn shows what holds them."
    )


PYTHON = _tool("Python", (3, 11), "runs Towline", "apt-get install python3")
GIT = _tool("Git", (2, 38), "computes candidates (merge-tree --write-tree)", "apt-get install git")
GO = _tool("Go", (1, 26), "builds the Kubernetes parts", "install it from go.dev, Debian's own is older")
JAVA = _tool("Java", (17, 0), "runs Kafka", "apt-get install openjdk-17-jre-headless")
MAVEN = _tool("Maven", (3, 6), "fetches Kafka", "apt-get install maven")
WORKSPACE: tuple[Check, ...] = (PYTHON, _venv, GIT)
CLUSTER: tuple[Check, ...] = (*WORKSPACE, GO, _compiler, _root, _debian, _disk, _memory, _ports)
EVERYTHING: tuple[Check, ...] = (*CLUSTER, JAVA, MAVEN)
PURPOSES: dict[str, tuple[Check, ...]] = {
    "setup": WORKSPACE,
    "demo": CLUSTER,
    "demo-kafka": EVERYTHING,
    "test": EVERYTHING,
}


def missing(machine: Machine, purpose: str) -> list[str]:
    """One sentence per thing that `purpose` needs and `machine` lacks; empty when all is there."""
    return [sentence for check in PURPOSES[purpose] for sentence in [check(machine)] if sentence]


def parse_version(text: str) -> tuple[int, int] | None:
    """The first `N.N` (or lone `N`) in a tool's own version line."""
    found = re.search(r"(\d+)(?:\.(\d+))?", text)
    return (int(found.group(1)), int(found.group(2) or 0)) if found else None


def _version(*command: str) -> tuple[int, int] | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    # A terminal's colours would put their own numbers in front of the version.
    words = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    return parse_version(words) if done.returncode == 0 else None


def _system() -> str:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        return sys.platform
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    return f"{fields.get('ID', '')} {fields.get('VERSION_ID', '')}".strip()


def _memory_total() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def _free_disk(folder: Path) -> int:
    """Bytes free where `folder` will stand: it may not be there yet, its nearest existing parent is."""
    for place in [folder, *folder.parents]:
        if place.exists():
            return shutil.disk_usage(str(place)).free
    return 0


def _free_ports() -> int:
    held = []
    try:
        for _ in range(PORTS):
            opened = socket.socket()
            held.append(opened)
            opened.bind(("127.0.0.1", 0))
        return len(held)
    except OSError:
        return len(held) - 1
    finally:
        for opened in held:
            opened.close()


def _has_venv() -> bool:
    from importlib.util import find_spec

    return find_spec("venv") is not None and find_spec("ensurepip") is not None


def cache_folder() -> Path:
    """Where everything is cached: TOWLINE_CACHE, or `towline` in the user's cache folder."""
    named = os.environ.get("TOWLINE_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "towline"


def read_machine() -> Machine:
    """Reads this machine; starts the tools only to ask their version."""
    cache = cache_folder()
    return Machine(
        python=(sys.version_info[0], sys.version_info[1]),
        venv=_has_venv(),
        git=_version("git", "--version"),
        go=_version("go", "version"),
        java=_version("java", "--version"),
        maven=_version("mvn", "--version"),
        compiler=shutil.which("cc") is not None,
        root=hasattr(os, "geteuid") and os.geteuid() == 0,
        system=_system(),
        disk=_free_disk(cache),
        disk_needed=WARM_DISK if (cache / "bin" / "kube").exists() else COLD_DISK,
        memory=_memory_total(),
        ports=_free_ports(),
    )


def main(arguments: list[str]) -> int:
    """`preflight.py setup|demo|demo-kafka|test`: 0 when all is there, 1 with a sentence for each thing missing."""
    purpose = arguments[0] if arguments else "demo"
    if purpose not in PURPOSES:
        known = ", ".join(PURPOSES)
        sys.stderr.write(f"preflight: unknown purpose {purpose!r}, expected one of {known}\n")
        return 2
    sentences = missing(read_machine(), purpose)
    for sentence in sentences:
        sys.stderr.write("missing: " + sentence + "\n")
    if sentences:
        sys.stderr.write(COMPOSE_WAY + "\n")
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
