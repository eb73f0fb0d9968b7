"""Wakes other processes on the same file: a Unix datagram socket for each, in a folder beside it.

A lost wake-up only costs time, since everybody also looks at the file's version once a second.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_SUFFIX = "-wake"


class Wake:
    """Opened and closed on the event loop; `tell` wakes everybody else, `heard` is called when told."""

    def __init__(self, path: Path, heard: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = heard
        self._folder = path.with_name(path.name + _SUFFIX)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._own = f"{os.getpid()}-{secrets.token_hex(4)}"
        # A socket's path is limited to 107 bytes, wherever the file lies: it is reached through the open folder.
        self._directory = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._place(self._own))
        self._loop.add_reader(self._socket, self._receive)

    def tell(self) -> None:
        with suppress(OSError):
            for name in os.listdir(self._directory):  # noqa: PTH208 an open folder has no path of its own
                if name != self._own:
                    self._send(name)

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()
        with suppress(OSError):
            os.unlink(self._own, dir_fd=self._directory)
        os.close(self._directory)

    def _send(self, name: str) -> None:
        try:
            self._socket.sendto(b"", self._place(name))
        except ConnectionRefusedError:  # its process was killed
            with suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
        except OSError:
            return  # its buffer is full: it has enough to wake it

    def _receive(self) -> None:
        with suppress(OSError):
            while True:
                self._socket.recv(1)
        self._heard()

    def _place(self, name: str) -> str:
        return f"/proc/self/fd/{self._directory}/{name}"
