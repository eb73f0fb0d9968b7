"""Git objects as bytes: ids, loose files, commits. The trusted side's way to take objects from the jail.

What must hold: an object enters the mirror only under the id of its own bytes, only as a blob or a tree, and a tree
only with names and modes that may stand in one. Commits are never taken: they are made here from checked parts.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from towline.errors import Permanent
from towline.snapshot import bad_path

_TREE_MODES = frozenset({b"40000", b"100644", b"100755", b"120000"})
_IDENTITY = re.compile(rb"[^<>\n\0]* ?<[^<>\n\0]*> (\d{1,12} [+-]\d{4})")
COMMITTER = b"Towline <towline@localhost>"


class BadObject(Permanent):
    """What came out of the jail is no object that may be kept."""


@dataclass(frozen=True, slots=True)
class GitObject:
    kind: bytes
    body: bytes

    @property
    def id(self) -> str:
        sha = hashlib.sha1(b"%s %d\0" % (self.kind, len(self.body)), usedforsecurity=False)
        sha.update(self.body)
        return sha.hexdigest()

    def deflated(self) -> bytes:
        return zlib.compress(b"%s %d\0%s" % (self.kind, len(self.body), self.body), 1)


def inflated(data: bytes, limit: int) -> GitObject:
    """The object of a loose file, at most `limit` bytes of it. Raises BadObject."""
    try:
        inflate = zlib.decompressobj()
        plain = inflate.decompress(data, limit + 64)
    except zlib.error as error:
        raise BadObject(f"an object cannot be unpacked: {error}") from None
    head, _, body = plain.partition(b"\0")
    kind, _, size = head.partition(b" ")
    if not inflate.eof or not size.isdigit() or int(size) != len(body) or len(body) > limit:
        raise BadObject(f"an object is cut off, or has more than {limit} bytes")
    return GitObject(kind, body)


def check(found: GitObject) -> GitObject:
    """Raises BadObject for what may not come from the jail."""
    if found.kind == b"blob":
        return found
    if found.kind != b"tree":
        raise BadObject(f"the jail gave an object of kind {found.kind[:20]!r}; only blobs and trees are taken")
    for mode, name, _ in tree_entries(found.body):
        text = os.fsdecode(name)
        if mode not in _TREE_MODES or "/" in text or not name or bad_path(text):
            raise BadObject(f"a tree holds {name[:80]!r} with mode {mode[:10]!r}, which may not stand in one")
    return found


def tree_entries(body: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """(mode, name, raw id) of a SHA-1 tree. Raises BadObject."""
    at = 0
    while at < len(body):
        blank, end = body.find(b" ", at), body.find(b"\0", at)
        if not at < blank < end or end + 21 > len(body):
            raise BadObject("a tree is damaged")
        yield body[at:blank], body[blank + 1 : end], body[end + 1 : end + 21]
        at = end + 21


def tree_body(entries: Iterable[tuple[bytes, bytes, bytes]]) -> bytes:
    """In Git's order: folders as if their name ended with a slash."""
    ordered = sorted(entries, key=lambda entry: entry[1] + b"/" if entry[0] == b"40000" else entry[1])
    return b"".join(b"%s %s\0%s" % entry for entry in ordered)


def commit(tree: str, parents: Iterable[str], author: str, date: str, message: str) -> GitObject:
    """A commit of Towline's: author as the change's author gave it, date of the change's head. Raises BadObject."""
    who = author.encode("utf-8", "surrogateescape")
    when = date.encode()
    if not _IDENTITY.fullmatch(who) or not re.fullmatch(rb"\d{1,12} [+-]\d{4}", when):
        raise BadObject("the head's author or date is malformed")
    lines = [b"tree " + tree.encode(), *(b"parent " + parent.encode() for parent in parents)]
    lines += [b"author " + who, b"committer %s %s" % (COMMITTER, when), b"", message.encode("utf-8", "replace")]
    return GitObject(b"commit", b"\n".join(lines))


def write(objects: Path, found: GitObject) -> str:
    """Put an object into a repository's `objects`, whole or not at all; one that is there is left. Returns its id."""
    id = found.id
    target = objects / id[:2] / id[2:]
    if target.exists():
        return id
    target.parent.mkdir(exist_ok=True, mode=0o755)
    part = target.with_name(f"tmp_obj_{secrets.token_hex(6)}")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o444)  # the jailed worker has another uid
            file.write(found.deflated())
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    return id
