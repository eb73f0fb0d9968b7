"""The `lint` check: yamllint on `.towline.yaml` and the manifests.

yamllint is GPL-3.0-or-later, so it is never imported: it runs as a program of its own, one process a request, and what
it prints is read. Its start costs more than its work, so one is always started ahead and waits at a named pipe for its
configuration. What must hold: only errors fail a change. A repository's own `.yamllint` is taken, for style is its own
business.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from towline_ci_runner.checks.found import MOST_PROBLEMS, Found
from towline_ci_runner.checks.lint_files import OWN, paths

DEFAULT = """
extends: relaxed
rules:
  line-length: disable
  trailing-spaces: {level: warning}
  new-line-at-end-of-file: {level: warning}
  new-lines: {level: warning}
  empty-lines: {level: warning}
  key-duplicates: {level: error}
"""
MOST_OUTPUT = 8 << 20
_LINE = re.compile(r"\./(.+?):(\d+):\d+: \[(error|warning)\] (.*)")
_PR_SET_PDEATHSIG = 1


class Lint:
    """One yamllint ahead. `prepare` and `close` are the process's that serves, a call is a fork's of it."""

    def __init__(self) -> None:
        self._next: _Program | None = None

    def prepare(self) -> None:
        """End what the last request used, and have a new one started."""
        self.close()
        self._next = _Program()

    def close(self) -> None:
        if self._next is not None:
            self._next.end()
            self._next = None

    def __call__(self, files: Mapping[str, bytes], manifests: Iterable[str], scratch: Path) -> Found:
        del scratch  # it began before the request, in a folder of its own
        assert self._next is not None, "prepared before it is asked"
        return _read(self._next, files, list(manifests))


def check(files: Mapping[str, bytes], manifests: Iterable[str]) -> Found:
    """The same for a caller with one request."""
    lint = Lint()
    lint.prepare()
    try:
        return lint(files, manifests, Path())
    finally:
        lint.close()


def _read(program: _Program, files: Mapping[str, bytes], manifests: Iterable[str]) -> Found:
    found = Found()
    own = next((name for name in OWN if name in files), None)
    for path in paths(files, manifests):
        try:
            files[path].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            found.add("the file is not UTF-8 text", path, files[path].count(b"\n", 0, error.start) + 1)
            continue
        program.give(path, files[path])
    warnings, refused = 0, ""
    for line in program.run(files[own] if own else DEFAULT.encode()):
        match = _LINE.fullmatch(line)
        if match is None:
            refused = refused or line
        elif match[3] == "error":
            found.add(match[4], match[1], int(match[2]))
        else:
            warnings += 1
    if refused and not found.problems:
        found.add(f"yamllint cannot use this configuration: {refused}", own)
    if warnings:
        found.notes.append(f"{warnings} warning{'s' if warnings != 1 else ''}")
    del found.problems[MOST_PROBLEMS:]
    return found


class _Program:
    """yamllint, started and waiting for its configuration; it lints the folder `tree` once and ends."""

    def __init__(self) -> None:
        self._top = Path(tempfile.mkdtemp(prefix="lint-"))
        self._tree = self._top / "tree"
        self._tree.mkdir()
        self._gate = self._top / "configuration"
        os.mkfifo(self._gate, 0o600)
        # As this process was started: an own path for modules, no site packages where there were none.
        flags = [*(("-S",) if sys.flags.no_site else ()), "-P", "-s", "-B"]
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-m", "yamllint", "-f", "parsable", "-c", str(self._gate), "--", "."],
            cwd=self._tree,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_ends_with_its_parent,
        )

    def give(self, path: str, content: bytes) -> None:
        file = self._tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def run(self, configuration: bytes) -> Iterable[str]:
        """The lines it says, no more of them than anybody reads."""
        for limit in (resource.RLIMIT_DATA, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE):
            with suppress(ProcessLookupError):
                resource.prlimit(self._process.pid, limit, resource.getrlimit(limit))
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        if not self._open_gate(configuration, output):
            return ("it ended before it was asked",)
        taken = bytearray()
        while len(taken) < MOST_OUTPUT and (chunk := os.read(output, 1 << 16)):
            taken += chunk
        return taken.decode("utf-8", "replace").splitlines()

    def _open_gate(self, configuration: bytes, output: int) -> bool:
        """False when the program is not there to open its side: then its output is at its end."""
        while True:
            try:
                gate = os.open(self._gate, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                readable, _, _ = select.select([output], [], [], 0.002)
                if readable:
                    return False
                continue
            os.set_blocking(gate, True)
            with suppress(BrokenPipeError), os.fdopen(gate, "wb") as pipe:
                pipe.write(configuration)
            return True

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        shutil.rmtree(self._top, ignore_errors=True)


def _ends_with_its_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
