"""Owns where things are kept: one folder holds every download, build and running instance.

The rule that must hold: removing the folder takes the machine back to the cold start (Debian packages and the build
user apart), and nothing outside it is used as a cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towline_cli.lab.preflight import cache_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Cache:
    """The layout under the cache folder; paths only, nothing is created by looking."""

    folder: Path

    @classmethod
    def default(cls) -> Cache:
        """TOWLINE_CACHE, or `towline` in the user's cache folder."""
        return cls(cache_folder())

    @property
    def bin(self) -> Path:
        """Built binaries and the links that name their parts."""
        return self.folder / "bin"

    def kustomize(self) -> Path | None:
        """The one built here, where the PATH has none."""
        built = self.bin / "kustomize"
        return built if shutil.which("kustomize") is None and built.exists() else None

    @property
    def go_modules(self) -> Path:
        """GOMODCACHE."""
        return self.folder / "go" / "mod"

    @property
    def go_build(self) -> Path:
        """GOCACHE."""
        return self.folder / "go" / "build"

    @property
    def maven(self) -> Path:
        """Maven's local repository."""
        return self.folder / "maven"

    @property
    def kafka(self) -> Path:
        """`libs/` (the jars) and `formatted/` (an empty log directory every broker starts from)."""
        return self.folder / "kafka"

    @property
    def pause_image(self) -> Path:
        """OCI layout of the image every pod's sandbox container runs."""
        return self.folder / "images" / "pause"

    @property
    def base_image(self) -> Path:
        """OCI layout of the Debian base image with Python and BusyBox."""
        return self.folder / "images" / "debian"

    @property
    def logs(self) -> Path:
        """One log per thing that was installed or built."""
        return self.folder / "logs"

    @property
    def instances(self) -> Path:
        """One folder per instance, running or not."""
        return self.folder / "instances"

    @contextmanager
    def lock(self, name: str = "install") -> Iterator[None]:
        """Only one process at a time is inside; the kernel lets go of it when the process dies."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f".{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def key_of(*parts: str | bytes | Path) -> str:
    """Hash of texts and file contents: what a built thing was made from. A Path stands for its file's bytes."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part if isinstance(part, bytes) else part.read_bytes()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def is_current(stamp: Path, key: str) -> bool:
    """Whether `stamp` says that the thing beside it was made from `key`."""
    try:
        return stamp.read_text(encoding="ascii") == key
    except OSError:
        return False
