"""What a jailed worker that forks for every request needs around the fork: protection, bounds, and a clean end.

Standard library only, because jailed children import it. The rule that must hold: the process that holds the pipes
takes no more of a fork than was allowed, for no longer than was allowed, and nothing of one request meets the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_PR_SET_DUMPABLE = 4
_CHUNK = 1 << 20


class TooSlow(Exception):
    """The fork did not end its answer in time."""


class TooMuch(Exception):
    """The fork's answer is longer than it may be."""


def protect() -> None:
    """This process can no longer be traced by its own forks, which run under the same uid. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot protect the worker from its own forks")


def collect(source: int, seconds: float, most_bytes: int) -> bytes:
    """What a fork writes until it closes its end. Raises TooSlow, TooMuch."""
    deadline, taken = time.monotonic() + seconds, bytearray()
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TooSlow
        chunk = os.read(source, _CHUNK)
        if not chunk:
            return bytes(taken)
        taken += chunk
        if len(taken) > most_bytes:
            raise TooMuch


def clean_up(folders: Iterable[Path]) -> None:
    """Kill every other process of the jail and empty its folders. Never to be called outside of a pid namespace."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    for folder in folders:
        for left in folder.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
