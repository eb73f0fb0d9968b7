"""The repository as the jailed fork sees it: objects of the mirror read-only, new ones in its scratch folder.

Runs only inside of the jail. Every call to Git is hardened as on the trusted side, though there is nothing to gain.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from towline.git import environment, options
from towline_git_watcher.objects import GitObject, tree_body, tree_entries

MIRROR_OBJECTS = "/mirror/objects"
_WINDOW = 256
"""Requests to cat-file that are open at once: few enough to fit into a pipe."""
_SETTINGS = {"merge.renameLimit": "1000", "diff.renameLimit": "1000", "core.bigFileThreshold": "64m"}


class Missing(Exception):
    """The mirror does not hold an object that was asked for."""


class Repository:
    def __init__(self, scratch: Path, objects: str = MIRROR_OBJECTS) -> None:
        self.dir = scratch / "r.git"
        for name in ("objects", "refs"):
            (self.dir / name).mkdir(parents=True)
        (self.dir / "HEAD").write_text("ref: refs/heads/none\n")
        self._env = {
            **environment(),
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        self._git = ["git", *options((), _SETTINGS), f"--git-dir={self.dir}"]
        self._cat = subprocess.Popen(
            [*self._git, "cat-file", "--batch-command"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self._env,
        )
        self.written: dict[str, GitObject] = {}
        """Objects made here and not by Git, which does not see them."""

    def run(self, *args: str) -> tuple[int, bytes, str]:
        done = subprocess.run([*self._git, *args], env=self._env, stdin=subprocess.DEVNULL, capture_output=True)
        return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")

    def ask(self, *args: str) -> bytes:
        code, out, err = self.run(*args)
        if code != 0:
            raise RuntimeError(f"git {args[0]} ended with {code}: {err[-500:]}")
        return out

    # -- reading --------------------------------------------------------------------------------------------------

    def size(self, name: str) -> tuple[str, str, int] | None:
        """(id, kind, bytes) of `<id>` or `<id>:<path>`; None when there is no such object."""
        self._say(b"info %s\n" % name.encode("utf-8", "surrogateescape"))
        words = self._line().split(" ")
        return (words[0], words[1], int(words[2])) if len(words) == 3 and words[2].isdigit() else None

    def contents(self, ids: Iterable[str]) -> Iterator[bytes]:
        """Of each id, in order. Raises Missing."""
        ids = list(ids)
        for start in range(0, len(ids), _WINDOW):
            window = ids[start : start + _WINDOW]
            self._say(b"".join(b"contents %s\n" % id.encode() for id in window))
            for id in window:
                words = self._line().split(" ")
                if len(words) != 3 or not words[2].isdigit():
                    raise Missing(id)
                assert self._cat.stdout is not None
                content = self._cat.stdout.read(int(words[2]))
                self._cat.stdout.read(1)
                yield content

    def content(self, id: str) -> bytes:
        if id in self.written:
            return self.written[id].body
        return next(iter(self.contents([id])))

    def _say(self, line: bytes) -> None:
        assert self._cat.stdin is not None
        self._cat.stdin.write(line)
        self._cat.stdin.flush()

    def _line(self) -> str:
        assert self._cat.stdout is not None
        return self._cat.stdout.readline().decode("utf-8", "replace").rstrip("\n")

    # -- trees ----------------------------------------------------------------------------------------------------

    def rewritten(self, root: str, files: dict[bytes, bytes]) -> str:
        """The tree with other contents for files that it holds. New objects are kept in `written`."""
        below: dict[bytes, dict[bytes, bytes]] = {}
        here: dict[bytes, bytes] = {}
        for path, content in files.items():
            name, slash, rest = path.partition(b"/")
            if slash:
                below.setdefault(name, {})[rest] = content
            else:
                here[name] = bytes.fromhex(self._keep(GitObject(b"blob", content)))
        entries = []
        for mode, name, id in tree_entries(self.content(root)):
            new = id
            if mode == b"40000" and name in below:
                new = bytes.fromhex(self.rewritten(id.hex(), below[name]))
            elif mode != b"40000":
                new = here.get(name, id)
            entries.append((mode, name, new))
        return self._keep(GitObject(b"tree", tree_body(entries)))

    def _keep(self, made: GitObject) -> str:
        self.written[made.id] = made
        return made.id

    def loose(self) -> list[bytes]:
        """Every object that Git wrote here, as its loose file."""
        return [file.read_bytes() for folder in (self.dir / "objects").glob("??") for file in folder.iterdir()]
