"""The watcher's secret and what is made of it: a key per repository, landing permits, signatures of hints.

    secret (0600, in the service's folder) ─► key of a repository (0600, beside its hooks) ─► HMACs

A hook runs as whoever serves the repository and cannot read the service's folder, so it has a key of its own; one
repository's key says nothing about another's. A permit binds (ref, old, new), so seeing one in a process list gives
nobody anything that can be used again. Comparisons are in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

PERMIT = "towline-landing="
"""Push option of Towline's own landings."""


def load(folder: Path) -> bytes:
    """The secret of this service, made at the first start."""
    file = folder / "secret"
    try:
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file.chmod(0o600)
        return bytes.fromhex(file.read_text().strip())
    with os.fdopen(fd, "w") as out:
        out.write(secrets.token_hex(32) + "\n")
        out.flush()
        os.fsync(fd)
    return bytes.fromhex(file.read_text().strip())


def repository_key(secret: bytes, repo: str) -> str:
    return hmac.new(secret, b"towline repository " + repo.encode(), hashlib.sha256).hexdigest()


def sign(key: str, *parts: str) -> str:
    """Over parts that hold no line end, one a line."""
    return hmac.new(key.encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def permit(key: str, ref: str, old: str, new: str) -> str:
    return PERMIT + sign(key, "land", ref, old, new)


def hint_signature(key: str, repo: str, body: bytes) -> str:
    return hmac.new(key.encode(), b"hint\n" + repo.encode() + b"\n" + body, hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
