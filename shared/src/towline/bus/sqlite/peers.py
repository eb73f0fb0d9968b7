"""Notices at once that another member's process has ended, where the system can tell (Linux: pidfd_open).

Elsewhere, and for processes that cannot be seen from here, the heartbeats find out later.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import suppress

from towline.bus.sqlite.lease import is_dead, pid_of


class Peers:
    """Belongs to the event loop; `ended` is called once for each process watched."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._watched: dict[str, int] = {}
        """Process → the descriptor that tells of its end."""

    def watch(self, processes: Collection[str]) -> None:
        """These processes and no others."""
        for process in self._watched.keys() - set(processes):
            self._forget(process)
        for process in set(processes) - self._watched.keys():
            self._begin(process)

    def close(self) -> None:
        self.watch(())

    def _begin(self, process: str) -> None:
        pid = pid_of(process)
        if pid is None or not hasattr(os, "pidfd_open"):
            return
        with suppress(OSError):
            self._watched[process] = descriptor = os.pidfd_open(pid)
            self._loop.add_reader(descriptor, self._tell, process)
        if is_dead(process):  # before it could be watched, or its number is another's now
            self._loop.call_soon(self._tell, process)

    def _tell(self, process: str) -> None:
        self._forget(process)
        self._ended()

    def _forget(self, process: str) -> None:
        descriptor = self._watched.pop(process, None)
        if descriptor is not None:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
