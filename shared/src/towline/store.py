"""The artifact store: bytes by content hash. Snapshots, logs, rendered manifests and reports live here.

What is stored never changes, so writing twice is harmless and reading can be checked: `get` recomputes the hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Protocol

from towline.errors import BadInput, Permanent
from towline.ids import Digest, is_digest


class NotStored(Permanent):
    """No artifact has this digest."""


class Corrupt(Permanent):
    """What the store holds under a digest has another hash."""


class ArtifactStore(Protocol):
    def put(self, content: bytes) -> Digest: ...

    def get(self, digest: str) -> bytes:
        """Raises NotStored, Corrupt or BadInput (not a digest)."""
        ...


class FolderStore:
    """Files `<top>/<first two digits>/<hash>`; a file appears whole, by rename."""

    def __init__(self, top: Path) -> None:
        self._top = top
        top.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise BadInput(f"{digest!r} is not a digest; expected sha256: and 64 hex digits")
        name = digest.removeprefix("sha256:")
        return self._top / name[:2] / name

    def put(self, content: bytes) -> Digest:
        digest = Digest("sha256:" + hashlib.sha256(content).hexdigest())
        path = self.path(digest)
        if path.exists():
            return digest
        path.parent.mkdir(exist_ok=True, mode=0o700)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.rename(path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                part.unlink()
        return digest

    def get(self, digest: str) -> bytes:
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotStored(f"the artifact store holds nothing under {digest}") from None
        if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
            raise Corrupt(f"the artifact store's content under {digest} has another hash")
        return content
