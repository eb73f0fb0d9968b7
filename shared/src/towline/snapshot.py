"""Snapshots: one Git tree as bytes, for the artifact store and for jailed children that test, render or build it.

Owns the archive format and the way back to files. What must hold:

- The same entries give the same bytes, and the Git tree id of the entries is recomputed by every consumer, so nobody
  has to believe the producer, the store or the network.
- A tree is checked whole before its first file is written: what would leave the folder, hide a `.git`, stand twice or
  point out of the tree is refused with its path.
- Standard library and `towline.errors` only, so that a jailed child can import this module alone, fast.

Format: zlib over `towline-snapshot 1\\n`, then per entry, ordered by path, `<mode> <path bytes> <content bytes>\\n`,
the path and the content. Not tar: extended headers, links and sparse files would each be a second way to say a path.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from towline.errors import Permanent

FILE, EXECUTABLE, SYMLINK = "100644", "100755", "120000"
_MODES = frozenset({FILE, EXECUTABLE, SYMLINK})
_MAGIC = b"towline-snapshot 1\n"
_HEADER_BYTES = 64
_LINK_STEPS = 40
"""As many links as Linux follows before it gives up."""


class BadSnapshot(Permanent):
    """The tree or the archive is not one that may be written out; the message names the path and the reason."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a tree. `path` is relative with `/`; the content of a symlink is its target."""

    path: str
    mode: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a tree may hold; `total_bytes` counts contents and paths, unpacked."""

    files: int = 200_000
    total_bytes: int = 512 << 20
    path_bytes: int = 4096


LIMITS = Limits()


def pack(entries: Iterable[Entry], *, limits: Limits = LIMITS) -> bytes:
    """The archive of a tree. Raises BadSnapshot for a tree that `unpack` would refuse."""
    ordered = sorted(entries, key=lambda entry: entry.path.encode("utf-8", "surrogatepass"))
    check(ordered, limits=limits)
    squeeze = zlib.compressobj(1)
    out = [squeeze.compress(_MAGIC)]
    for entry in ordered:
        path = entry.path.encode()
        out.append(squeeze.compress(b"%s %d %d\n%s" % (entry.mode.encode(), len(path), len(entry.content), path)))
        out.append(squeeze.compress(entry.content))
    out.append(squeeze.flush())
    return b"".join(out)


def unpack(data: bytes, into: Path, *, tree: str, limits: Limits = LIMITS) -> None:
    """Write the archived tree into `into`, a folder that is empty or does not exist yet.

    Raises BadSnapshot, with nothing written, when the archive is damaged, holds what a tree may not hold, is over a
    limit, or its Git tree id is not `tree`.
    """
    entries = read(data, limits=limits)
    found = tree_id(entries)
    if found != tree:
        raise BadSnapshot(f"the snapshot is of tree {found}, expected {tree}; nothing was written")
    into.mkdir(parents=True, exist_ok=True)
    if any(into.iterdir()):
        raise BadSnapshot(f"{into} is not empty; a snapshot is only written into an empty folder")
    _write(entries, str(into))


def read(data: bytes, *, limits: Limits = LIMITS) -> list[Entry]:
    """The entries of an archive, checked. Raises BadSnapshot."""
    source = _Inflated(data, limits.total_bytes + limits.files * _HEADER_BYTES + len(_MAGIC))
    if source.line() != _MAGIC:
        raise BadSnapshot("the bytes are no snapshot of this format (towline-snapshot 1)")
    entries: list[Entry] = []
    while header := source.line():
        mode, path_bytes, content_bytes = _parse_header(header)
        try:
            path = source.take(path_bytes).decode()
        except UnicodeDecodeError as error:
            raise BadSnapshot("the snapshot is damaged: a path is not UTF-8") from error
        entries.append(Entry(path, mode, source.take(content_bytes)))
        if len(entries) > limits.files:
            raise BadSnapshot(f"the snapshot holds more than {limits.files} files")
    check(entries, limits=limits)
    return entries


def contents(entries: Sequence[Entry]) -> dict[str, bytes]:
    """Contents by path; a symlink stands for the file of the tree that it points to, and for nothing else."""
    files = {entry.path: entry.content for entry in entries if entry.mode != SYMLINK}
    for entry in entries:
        if entry.mode == SYMLINK:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.content.decode()))
            if target in files:
                files.setdefault(entry.path, files[target])
    return files


def tree_id(entries: Iterable[Entry]) -> str:
    """The id (SHA-1) of the Git tree that holds exactly these entries."""
    root: _Folder = {}
    for entry in entries:
        folder, parts = root, entry.path.encode().split(b"/")
        for part in parts[:-1]:
            below = folder.setdefault(part, {})
            if not isinstance(below, dict):
                raise BadSnapshot(f"{entry.path}: a part of the path is a file")
            folder = below
        folder[parts[-1]] = (entry.mode.encode(), _object_id(b"blob", entry.content))
    return _id_of(root).hex()


def check(entries: Sequence[Entry], *, limits: Limits = LIMITS) -> None:
    """Raises BadSnapshot, naming the path, for a tree that may not be written out."""
    if len(entries) > limits.files:
        raise BadSnapshot(f"the tree holds {len(entries)} files, more than {limits.files}")
    total = 0
    files: set[str] = set()
    folders: set[str] = set()
    links: dict[str, str] = {}
    for entry in entries:
        _check_entry(entry, limits)
        total += len(entry.content) + len(entry.path)
        if total > limits.total_bytes:
            raise BadSnapshot(f"{entry.path}: the tree holds more than {limits.total_bytes} bytes")
        if entry.path in files:
            raise BadSnapshot(f"{entry.path}: stands twice in the tree")
        files.add(entry.path)
        above = entry.path.rpartition("/")[0]
        while above and above not in folders:
            folders.add(above)
            above = above.rpartition("/")[0]
        if entry.mode == SYMLINK:
            links[entry.path] = _link_target(entry)
    if both := files & folders:
        raise BadSnapshot(f"{min(both)}: is a file and a folder at once")
    for path in links:
        _check_link(path, links)


def _check_entry(entry: Entry, limits: Limits) -> None:
    if entry.mode not in _MODES:
        raise BadSnapshot(f"{entry.path}: mode {entry.mode} is none of {', '.join(sorted(_MODES))}")
    try:
        length = len(entry.path.encode())
    except UnicodeEncodeError as error:
        raise BadSnapshot(f"{entry.path!r}: the path is not UTF-8") from error
    if not 0 < length <= limits.path_bytes:
        raise BadSnapshot(f"{entry.path[:80]!r}: a path has 1 to {limits.path_bytes} bytes")
    if reason := bad_path(entry.path):
        raise BadSnapshot(f"{entry.path!r}: {reason}")


_HFS_IGNORED = {
    ord(c): None
    for c in "\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u206a\u206b\u206c\u206d\u206e\u206f\ufeff"
}


def bad_path(path: str) -> str | None:
    """Why a path may not be in a tree; None for a good one."""
    if path.startswith("/"):
        return "the path is absolute"
    if "\0" in path:
        return "the path holds a NUL byte"
    parts = path.split("/")
    if "" in parts:
        return "the path has an empty part"
    if "." in parts or ".." in parts:
        return "the path has a part . or .. and could leave the tree"
    if "git" in path.lower().translate(_HFS_IGNORED) and any(map(_is_dot_git, parts)):
        return "a part of the path is .git on some system"
    return None


def _is_dot_git(part: str) -> bool:
    """Also as HFS+ and NTFS would read it: ignored code points, `git~1`, streams, trailing dots and blanks."""
    plain = part.translate(_HFS_IGNORED).lower()
    pieces = [plain, *plain.split("\\")]
    return any(piece.partition(":")[0].rstrip(" .") in {".git", "git~1"} for piece in pieces)


def _link_target(entry: Entry) -> str:
    try:
        target = entry.content.decode()
    except UnicodeDecodeError as error:
        raise BadSnapshot(f"{entry.path}: the symlink's target is not UTF-8") from error
    if not target or "\0" in target or len(target) > LIMITS.path_bytes:
        raise BadSnapshot(f"{entry.path}: the symlink has no usable target")
    return target


def _check_link(path: str, links: dict[str, str]) -> None:
    """Follow a link as the kernel would, through other links of the tree; it may end nowhere, but not outside."""
    at: list[str] = []
    todo = path.split("/")[::-1]
    steps = 0
    while todo:
        part = todo.pop()
        if part in {"", "."}:
            continue
        if part == "..":
            if not at:
                raise BadSnapshot(f"{path}: the symlink points out of the tree ({links[path]!r})")
            at.pop()
            continue
        at.append(part)
        target = links.get("/".join(at))
        if target is None:
            continue
        steps += 1
        if steps > _LINK_STEPS:
            raise BadSnapshot(f"{path}: the symlink leads through more than {_LINK_STEPS} others, or in a circle")
        if target.startswith("/"):
            raise BadSnapshot(f"{path}: the symlink leads to the absolute path {target!r}, outside of the tree")
        at.pop()
        todo.extend(target.split("/")[::-1])


def _write(entries: Sequence[Entry], into: str) -> None:
    made = {""}
    for entry in entries:
        above = entry.path.rpartition("/")[0]
        if above not in made:
            os.makedirs(os.path.join(into, above), exist_ok=True)  # noqa: PTH103, PTH118 - a hot loop over strings
            made.add(above)
        if entry.mode == SYMLINK:
            continue
        mode = 0o755 if entry.mode == EXECUTABLE else 0o644
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(f"{into}/{entry.path}", flags, mode)
        with os.fdopen(fd, "wb", buffering=0) as file:
            os.fchmod(fd, mode)
            view = memoryview(entry.content)
            while view:
                view = view[file.write(view) :]
    for entry in entries:
        if entry.mode == SYMLINK:
            os.symlink(entry.content, f"{into}/{entry.path}".encode())  # noqa: PTH211 - targets are bytes


_Leaf = tuple[bytes, bytes]
_Folder = dict[bytes, "_Leaf | _Folder"]


def _object_id(kind: bytes, content: bytes) -> bytes:
    sha = hashlib.sha1(b"%s %d\0" % (kind, len(content)), usedforsecurity=False)
    sha.update(content)
    return sha.digest()


def _id_of(root: _Folder) -> bytes:
    """Without recursion: a hostile tree may be as deep as its longest path."""
    order: list[tuple[_Folder, _Folder | None, bytes]] = [(root, None, b"")]
    for folder, _, _ in order:
        order.extend((below, folder, name) for name, below in folder.items() if isinstance(below, dict))
    for folder, parent, name in reversed(order):
        digest = _object_id(b"tree", b"".join(_tree_lines(folder)))
        if parent is None:
            return digest
        parent[name] = (b"40000", digest)
    raise AssertionError("the root has no parent")


def _tree_lines(folder: _Folder) -> Iterator[bytes]:
    leaves = [(name, leaf) for name, leaf in folder.items() if not isinstance(leaf, dict)]
    leaves.sort(key=lambda item: item[0] + b"/" if item[1][0] == b"40000" else item[0])
    for name, (mode, digest) in leaves:
        yield b"%s %s\0%s" % (mode, name, digest)


def _parse_header(header: bytes) -> tuple[str, int, int]:
    try:
        mode, path_bytes, content_bytes = header.decode("ascii").rstrip("\n").split(" ")
        if path_bytes.isdecimal() and content_bytes.isdecimal():
            return mode, int(path_bytes), int(content_bytes)
    except ValueError:
        pass
    raise BadSnapshot("the snapshot is damaged: a header cannot be read")


class _Inflated:
    """The uncompressed bytes, never more than `limit` of them, whatever the archive would grow to."""

    def __init__(self, data: bytes, limit: int) -> None:
        inflate = zlib.decompressobj()
        try:
            self._bytes = inflate.decompress(data, limit + 1)
        except zlib.error as error:
            raise BadSnapshot(f"the snapshot is damaged: {error}") from error
        if len(self._bytes) > limit:
            raise BadSnapshot(f"the snapshot unpacks to more than {limit} bytes")
        if not inflate.eof or inflate.unused_data:
            raise BadSnapshot("the snapshot is damaged: it ends too early or too late")
        self._at = 0

    def line(self) -> bytes:
        """Up to and with the next newline; empty at the end."""
        if self._at == len(self._bytes):
            return b""
        end = self._bytes.find(b"\n", self._at, self._at + _HEADER_BYTES)
        if end < 0:
            raise BadSnapshot("the snapshot is damaged: a header has no end")
        start, self._at = self._at, end + 1
        return self._bytes[start : self._at]

    def take(self, count: int) -> bytes:
        if count > len(self._bytes) - self._at:
            raise BadSnapshot("the snapshot is damaged: it ends inside of an entry")
        start, self._at = self._at, self._at + count
        return self._bytes[start : self._at]
