"""Git as the agent reads it: one bare mirror per repository, never written to but by fetch.

What must hold: only the tip of the followed branch is ever used; nothing of the repository is run, merged or checked
out here; what an application is made of is named by Git's own ids (`Folders.key`), so "did it change" costs one
question to a local mirror and no look at a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from towline import git, snapshot
from towline.errors import BadInput, DependencyDown, Permanent
from towline.ids import digest_of

_FETCH_SECONDS = 300.0
_TRAILER = "Towline-Change:"
_ABSENT = "-"


class NoBranch(Permanent):
    """The repository answers, but has no such branch."""


@dataclass(frozen=True, slots=True)
class Tip:
    """Where the followed branch stands. `change` is the last `Towline-Change` trailer of that commit."""

    commit: str
    change: str | None


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of one commit (or files), with their Git ids; `-` for one that is not there."""

    paths: tuple[str, ...]
    ids: tuple[str, ...]

    @property
    def key(self) -> str:
        return digest_of(*(part for pair in zip(self.paths, self.ids, strict=True) for part in pair))[:40]


class Mirror:
    """One repository. Fetches of the same branch that are asked for at once are one fetch."""

    def __init__(self, url: str, mirrors: Path) -> None:
        """Raises BadInput for an address that Towline does not use."""
        self.remote = git.remote(url)
        self._dir = mirrors / f"{digest_of(url)[:24]}.git"
        self._git: git.Git | None = None
        self._lock = asyncio.Lock()

    async def look(self, branch: str, paths: Sequence[str]) -> tuple[Tip, Folders]:
        """Fetch the branch; where it stands now, and these folders of that commit.

        Raises DependencyDown (it does not answer), NoBranch, BadInput (no name of a branch or folder).
        """
        ref = git.check_ref(f"refs/heads/{branch}")
        for path in paths:
            _check_path(path)
        async with self._lock:
            return await asyncio.to_thread(self._look, ref, tuple(dict.fromkeys(paths)))

    def _look(self, ref: str, paths: tuple[str, ...]) -> tuple[Tip, Folders]:
        here = f"refs/towline/{ref.removeprefix('refs/heads/')}"
        self._fetch(ref, here)
        asked = [f"contents {here}\n", *(f"info {_object(here, path)}\n" for path in paths)]
        out = self._repository().run("cat-file", "--batch-command", stdin="".join(asked).encode()).out
        about, _, rest = out.partition(b"\n")
        commit, kind, size = about.decode().split()
        if kind != "commit":
            raise NoBranch(f"{self.remote.url}: {ref} is no commit; point spec.source.branch at a branch")
        message = rest[: int(size)].partition(b"\n\n")[2].decode("utf-8", "replace")
        lines = rest[int(size) + 1 :].decode("utf-8", "replace").splitlines()
        return Tip(commit, change_of(message)), Folders(paths, tuple(map(_id_in, lines)))

    def _fetch(self, ref: str, here: str) -> None:
        call = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", self.remote.url, f"+{ref}:{here}")
        try:
            answer = self._repository().ask(*call, seconds=_FETCH_SECONDS)
        except git.GitTooMuch as error:
            raise DependencyDown(f"{self.remote.url}: {error}") from error
        if answer.code == 0:
            return
        said = " | ".join(line.strip() for line in answer.err.splitlines() if line.strip())[-500:]
        if "couldn't find remote ref" in said:
            branch = ref.removeprefix("refs/heads/")
            raise NoBranch(f"{self.remote.url} has no branch {branch}; push it or mend spec.source.branch")
        raise DependencyDown(f"{self.remote.url} does not answer: {said}")

    def _repository(self) -> git.Git:
        if self._git is None:
            self._git = git.Git.init_bare(self._dir, protocols=(self.remote.protocol,))
        return self._git

    async def folders(self, commit: str, paths: Sequence[str]) -> Folders:
        """Raises BadInput for a path that is none."""
        for path in paths:
            _check_path(path)
        return await asyncio.to_thread(self._folders, git.check_id(commit), tuple(dict.fromkeys(paths)))

    def _folders(self, commit: str, paths: tuple[str, ...]) -> Folders:
        asked = "".join(f"{_object(commit, path)}\n" for path in paths)
        answer = self._repository().run("cat-file", "--batch-check", stdin=asked.encode())
        return Folders(paths, tuple(map(_id_in, answer.text.split("\n"))))

    async def entries(self, commit: str, paths: Sequence[str], most_bytes: int) -> list[snapshot.Entry]:
        """Every file below `paths`, with paths from the top of the repository.

        Raises BadInput for what cannot be read as manifests: submodules, or more than `most_bytes`.
        """
        return await asyncio.to_thread(self._entries, commit, paths, most_bytes)

    def _entries(self, commit: str, paths: Sequence[str], most_bytes: int) -> list[snapshot.Entry]:
        repository = self._repository()
        chosen = [] if "." in paths else [each.removesuffix("/") for each in paths]
        call = ("ls-tree", "-r", "-z", "-l", "--full-tree", git.check_id(commit), "--", *chosen)
        found: dict[str, tuple[str, str]] = {}
        total = 0
        for line in repository.run(*call).out.split(b"\0"):
            if not line:
                continue
            about, _, name = line.partition(b"\t")
            mode, kind, object_id, size = about.decode().split()
            path = name.decode("utf-8", "replace")
            if kind != "blob":
                raise BadInput(f"{path} is a submodule, which is not followed; copy its manifests into the repository")
            found[path] = (mode, object_id)
            total += int(size)
            if total > most_bytes:
                raise BadInput(
                    f"the folders of the application hold more than {most_bytes >> 20} MiB; "
                    "point spec.source.path at a folder of manifests only"
                )
        contents = self._contents([object_id for _, object_id in found.values()], total)
        return [
            snapshot.Entry(path, mode, content)
            for (path, (mode, _)), content in zip(found.items(), contents, strict=True)
        ]

    def _contents(self, ids: Sequence[str], total: int) -> list[bytes]:
        if not ids:
            return []
        asked = "".join(f"{each}\n" for each in ids).encode()
        limit = total + 128 * len(ids) + 1024
        out = memoryview(self._repository().run("cat-file", "--batch", stdin=asked, output_bytes=limit).out)
        contents, at = [], 0
        for each in ids:
            end = bytes(out[at : at + 128]).index(b"\n") + at
            size = int(bytes(out[at:end]).removeprefix(f"{each} blob ".encode()))
            contents.append(bytes(out[end + 1 : end + 1 + size]))
            at = end + 1 + size + 1
        return contents


def change_of(message: str) -> str | None:
    """The last `Towline-Change` trailer of a commit message: a line of its last paragraph."""
    paragraphs = message.strip().split("\n\n")
    lines = paragraphs[-1].split("\n") if len(paragraphs) > 1 else ()
    found = [line.removeprefix(_TRAILER).strip() for line in lines if line.startswith(_TRAILER)]
    return found[-1][:1024] or None if found else None


def _id_in(line: str) -> str:
    """`<id> <type> <size>`, or `<what was asked> missing`."""
    return _ABSENT if line.endswith((" missing", " ambiguous")) else line.partition(" ")[0]


def _object(commit: str, path: str) -> str:
    return f"{commit}:{'' if path == '.' else path}"


def _check_path(path: str) -> None:
    if "\n" in path or (path != "." and snapshot.bad_path(path)):
        raise BadInput(f"{path[:100]!r} is no path of a folder inside the repository")
