"""The watcher's secret and what is made of it: a key per repository, landing permits, signatures of hints.

    secret (0600, in the service's folder) ─► key of a repository (0600, beside its hooks) ─► HMACs

A hook runs as whoever serves the repository and cannot read the service's folder, so it has a key of its own; one
repository's key says nothing about another's. A permit binds (ref, old, new), so seeing one in a process list gives
nobody anything that can be used again. Comparisons are in constant time.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path

from towline.errors import BadInput

_BYTES = 32
PERMIT = "towline-landing="
"""Push option of Towline's own landings."""


def load(folder: Path) -> bytes:
    """The secret of this service, made at the first start. It appears whole: a part of one would be a known key."""
    file = folder / "secret"
    if not file.exists():
        part = folder / f".secret.{secrets.token_hex(4)}"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(secrets.token_hex(_BYTES) + "\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):  # another one was as quick
            file.hardlink_to(part)
        part.unlink()
    file.chmod(0o600)
    text = file.read_text().strip()
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _BYTES}}}", text):
        raise BadInput(f"{file} is damaged: expected {2 * _BYTES} hex digits; remove it to have another one made")
    return bytes.fromhex(text)


def repository_key(secret: bytes, repo: str) -> str:
    return hmac.new(secret, b"towline repository " + repo.encode(), hashlib.sha256).hexdigest()


def sign(key: str, *parts: str) -> str:
    """Over parts that hold no line end, one a line."""
    return hmac.new(key.encode(), "\n".join(parts).encode(), hashlib.sha256).hexdigest()


def permit(key: str, ref: str, old: str, new: str) -> str:
    return PERMIT + sign(key, "land", ref, old, new)


def hint_signature(key: str, repo: str, body: bytes) -> str:
    return hmac.new(key.encode(), b"hint\n" + _raw(repo) + b"\n" + body, hashlib.sha256).hexdigest()


def same(one: str, other: str) -> bool:
    return hmac.compare_digest(_raw(one), _raw(other))


def _raw(text: str) -> bytes:
    """Also of a header's value that is no UTF-8, as aiohttp gives it."""
    return text.encode("utf-8", "surrogateescape")
