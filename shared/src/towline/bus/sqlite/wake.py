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
        self._own = f"{os.getpid()}-{secrets.token_hex(4)}"
        # A socket's path is limited to 107 bytes, wherever the file lies: it is reached through the open folder.
        self._directory = _open_folder(self._folder, path)
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


def _open_folder(folder: Path, file: Path) -> int:
    """The file's owner's folder, made when it is not there. Raises OSError, also for a folder that others could enter.

    Root makes it for the file's owner, who could not use it otherwise.
    """
    owner = file.stat().st_uid if file.exists() else os.geteuid()
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, owner, -1)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    there = os.fstat(descriptor)
    if there.st_uid != owner or there.st_mode & 0o022:
        os.close(descriptor)
        raise PermissionError(f"{folder} is not the folder of the bus file's owner alone")
    return descriptor
