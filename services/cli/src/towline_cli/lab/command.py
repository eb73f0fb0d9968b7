"""Owns running a foreign command to its end: output into a log, a failure into one `LabError` with the last lines."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from typing import TYPE_CHECKING

from towline_cli.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

SHOWN_LINES = 6
_running: set[subprocess.Popen[str]] = set()


def run(
    part: str,
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> str:
    """Runs `command`, its stdout and stderr together into `log` and line by line to `on_line`; returns that text.

    `env` is added to this process's environment. Raises `LabError` naming `part` when it cannot start or fails.
    """
    words = [str(word) for word in command]
    lines: list[str] = []
    try:
        child = subprocess.Popen(
            words,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise LabError(part, f"{words[0]} could not be started: {error.strerror or error}.") from error
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
    _running.add(child)
    try:
        with child:
            assert child.stdout is not None
            for line in child.stdout:
                lines.append(line)
                if log is not None:
                    with log.open("a", encoding="utf-8") as handle:
                        handle.write(line)
                if on_line is not None:
                    on_line(line.rstrip("\n"))
    finally:
        _running.discard(child)
    if child.returncode != 0:
        last = " | ".join(line.strip() for line in deque(lines, SHOWN_LINES) if line.strip())
        raise LabError(part, f"`{' '.join(words[:3])} …` failed with exit code {child.returncode}: {last}.", log=log)
    return "".join(lines)


def interrupt_all() -> None:
    """Asks every command that runs now, in whichever thread, to end as Ctrl-C in a terminal would."""
    for child in list(_running):
        child.send_signal(signal.SIGINT)


def remove_folder(folder: Path) -> None:
    """Removes a folder with everything in it, and nothing that is mounted below it.

    By `rm`: a node's unpacked images are ten thousands of files, for which Python's own takes several times as long.
    """
    run("folder", ["rm", "-rf", "--one-file-system", "--", folder])
