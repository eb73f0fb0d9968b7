"""The files of a tree, bounded, and what may not be among them: submodules and LFS pointers.

Read by `ls-tree`, which no attribute steers; what cannot be tested as it stands is refused with its path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from towline.events import Problem
from towline_git_watcher.worker.repository import Repository

LFS = b"version https://git-lfs.github.com/spec/"
_SUBMODULE = "160000"


class Refused(Exception):
    """The change cannot become a candidate; its author is told why."""

    def __init__(self, stage: str, reason: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class File:
    path: str
    mode: str
    id: str
    size: int


def read_listing(repository: Repository, tree: str, most_files: int, most_bytes: int) -> list[File]:
    """Raises Refused, naming the path."""
    out = repository.ask("ls-tree", "-r", "-l", "-z", "--full-tree", tree)
    files = [_file(line) for line in out.split(b"\0") if line]
    if len(files) > most_files:
        raise Refused("configuration", f"The tree holds {len(files)} files; at most {most_files} are taken.")
    total = sum(file.size for file in files)
    if total > most_bytes:
        raise Refused("configuration", f"The tree holds {total} bytes; at most {most_bytes} are taken.")
    return files


def _file(line: bytes) -> File:
    meta, _, raw = line.partition(b"\t")
    mode, _, id, size = meta.decode().split()
    try:
        path = raw.decode()
    except UnicodeDecodeError:
        raise Refused("configuration", f"The name of the file {raw[:80]!r} is not UTF-8; rename it.") from None
    if mode == _SUBMODULE:
        said = "submodules are not supported; add the files themselves, or depend on a released package"
        raise _refused(path, said)
    return File(path, mode, id, int(size))


def refuse_lfs(file: File, content: bytes) -> None:
    if file.size < 1024 and content.startswith(LFS):
        raise _refused(file.path, "this is a Git LFS pointer, and LFS is not supported; commit the file itself")


def _refused(path: str, said: str) -> Refused:
    problem = Problem(message=said, file=path, check="configuration")
    return Refused("configuration", str(problem)[:600], (problem,))
