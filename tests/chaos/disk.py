"""A small disk of a case's own (a tmpfs), that is filled to its last byte and given room again."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

_SIZE_MB = 64
_PIECES = (1 << 20, 1 << 12, 1)
"""Bytes that are written at once, until even one finds no room."""


class Disk:
    """Mounted with `mount`, gone with `unmount`; needs root, as the lab does."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self._ballast = at / "ballast"

    def mount(self) -> None:
        self.at.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE_MB}m", "tmpfs", self.at], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", self.at], check=True)

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            for piece in _PIECES:
                try:
                    while ballast.write(b"\0" * piece) == piece:
                        pass
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        self._ballast.unlink()
