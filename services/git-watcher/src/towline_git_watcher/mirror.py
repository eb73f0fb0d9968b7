"""A repository's bare mirror, and the only calls that leave this host: fetch, look, push. Holds the credentials.

Nothing of the repository is interpreted here but refs and what `for-each-ref` says of their commits; whatever looks
into trees is the jailed worker's. Errors are told by consequence: away or refused (DependencyDown), or a bug.

The mirror is a cache and is written without fsync: what a power cut leaves of it is emptied and fetched again.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from towline.errors import DependencyDown
from towline.git import Answer, Git, GitFailed, GitTooMuch, check_id, check_ref, is_ref
from towline.ids import digest_of
from towline_git_watcher import objects as git_objects
from towline_git_watcher.change import FOR, target_of
from towline_git_watcher.messages import OpenRef
from towline_git_watcher.settings import RepositorySettings

log = logging.getLogger(__name__)
HEADS = "refs/towline/heads/"
"""Where the mirror keeps the other side's refs/heads/."""
_FETCH = ("--quiet", "--no-tags", "--force", "--no-write-fetch-head", "--no-auto-maintenance")
_FORMAT = "%(objectname)%00%(refname)%00%(contents:subject)%00%(authorname)%00"
_WITHOUT_TITLES = "%(objectname)%00%(refname)%00%00%00"
MOST_TITLES_BYTES = 8 << 20
"""Of all refs with titles as Git has them; where they are more, changes go without."""
MAX_REFS_BYTES = 150_000
"""Of all open changes: one event tells them, and stays under the bus's record limit."""
TITLE_CHARS = 200
AUTHOR_CHARS = 100
REFUSED_CHARS = 400


@dataclass(frozen=True, slots=True)
class Refs:
    branches: dict[str, str]
    changes: tuple[OpenRef, ...]
    left_out: int
    """Changes over the limit, and refs whose names are not taken."""
    cut: bool = False
    """Some were left out for the limit."""


class Mirror:
    def __init__(self, settings: RepositorySettings, top: Path, *, seconds: float, most_changes: int) -> None:
        self.settings = settings
        self.repo = settings.repo
        self.host = settings.remote.host
        self.git_dir = top / f"{digest_of(self.repo)[:16]}.git"
        self._seconds = seconds
        self._most = most_changes
        self._lock = threading.Lock()
        self._git: Git | None = None
        self._malformed: dict[str, tuple[str, str]] = {}
        """Ref that cannot be fetched → (where it stands, why)."""

    @property
    def objects(self) -> Path:
        return self.git_dir / "objects"

    def open(self) -> Git:
        """The bare repository, made if need be. Objects are world-readable: the worker has a uid of its own."""
        with self._lock:
            if self._git is None or not (self.git_dir / "HEAD").exists():
                Git.init_bare(self.git_dir)
                self.objects.chmod(0o755)
                configuration = {"core.sharedRepository": "0644", "core.fsync": "none"}
                if self.settings.ca_file is not None:
                    configuration["http.sslCAInfo"] = str(self.settings.ca_file.absolute())
                self._git = Git(self.git_dir, protocols=[self.settings.remote.protocol], configuration=configuration)
            return self._git

    # -- looking --------------------------------------------------------------------------------------------------

    async def listing(self) -> dict[str, str]:
        """Ref → id on the other side, without fetching. Raises DependencyDown."""
        return await asyncio.to_thread(self._listing)

    def _listing(self) -> dict[str, str]:
        answer = self._ask("ls-remote", "--refs", "--", self.settings.url, "refs/heads/*")
        if answer.code != 0:
            raise self._away(answer)
        found = {}
        for line in answer.out.decode("utf-8", "replace").splitlines():
            id, _, ref = line.partition("\t")
            found[ref] = id
        return found

    async def fetch(self) -> Refs:
        """Bring the mirror up to date and say where refs stand. Raises DependencyDown."""
        return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> Refs:
        if self._malformed:
            self._fetch_apart()
            return self._refs()
        answer = self._fetched()
        if answer.code != 0 and _MALFORMED not in answer.err:
            self._listing()  # raises when the other side is the reason
            log.warning(
                "the mirror is damaged and is fetched anew", extra={"repo": self.repo, "why": answer.err[-300:]}
            )
            self._empty()
            answer = self._fetched()
        if _MALFORMED in answer.err:
            self._fetch_apart()
        elif answer.code != 0:
            raise self._away(answer)
        return self._refs()

    def _fetched(self) -> Answer:
        return self._ask("fetch", *_FETCH, "--prune", "--", self.settings.url, f"+refs/heads/*:{HEADS}*")

    def _fetch_apart(self) -> None:
        """Whatever can be fetched: one malformed object takes a whole fetch with it, and so would stop every change."""
        listing = self._listing()
        lines = self.open().run("for-each-ref", "--format=%(objectname) %(refname)", HEADS).text.splitlines()
        here = {"refs/heads/" + ref.removeprefix(HEADS): id for id, _, ref in (line.partition(" ") for line in lines)}
        self._malformed = {ref: (id, why) for ref, (id, why) in self._malformed.items() if listing.get(ref) == id}
        wanted = [ref for ref, id in listing.items() if here.get(ref) != id and ref not in self._malformed]
        self._forget([ref for ref in here if ref not in listing])  # first: a name may be a folder now
        self._fetch_these(wanted, listing)
        self._forget([ref for ref in here if ref in self._malformed])

    def _forget(self, refs: Sequence[str]) -> None:
        told = "".join(f"delete {HEADS}{ref.removeprefix('refs/heads/')}\n" for ref in refs)
        self.open().run("update-ref", "--stdin", stdin=told.encode())

    def _fetch_these(self, refs: Sequence[str], listing: Mapping[str, str]) -> None:
        if not refs:
            return
        told = "".join(f"+{ref}:{HEADS}{ref.removeprefix('refs/heads/')}\n" for ref in refs).encode()
        answer = self._ask("fetch", *_FETCH, "--stdin", "--", self.settings.url, stdin=told)
        if answer.code == 0:
            return
        gated = refs[0].removeprefix("refs/heads/") in self.settings.branches
        if _MALFORMED not in answer.err or (len(refs) == 1 and gated):
            raise self._away(answer)
        if len(refs) > 1:
            half = len(refs) // 2
            self._fetch_these(refs[:half], listing)
            self._fetch_these(refs[half:], listing)
            return
        why = why_away(self.repo, answer)[:REFUSED_CHARS]
        log.warning("a ref holds a malformed object and is left out", extra={"repo": self.repo, "why": why})
        self._malformed[refs[0]] = (listing[refs[0]], why)

    def _empty(self) -> None:
        """In place: workers have the folder of objects mounted."""
        for folder in (self.objects, self.git_dir / "refs"):
            for left in folder.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        (self.git_dir / "packed-refs").unlink(missing_ok=True)
        self._git = None

    def _refs(self) -> Refs:
        git = self.open()
        order = ("--sort=refname", "--sort=committerdate", HEADS)
        try:
            fields = git.run("for-each-ref", f"--format={_FORMAT}", *order, output_bytes=MOST_TITLES_BYTES)
        except GitTooMuch:  # a title may be of any length, and one of them may not hide all changes
            fields = git.run("for-each-ref", f"--format={_WITHOUT_TITLES}", *order)
        branches: dict[str, str] = {}
        found: list[OpenRef] = []
        for id, name, title, author in _records(fields.out):
            branch = name.removeprefix(HEADS)
            if branch in self.settings.branches:
                branches[branch] = id
            else:
                title, author = _line(title, TITLE_CHARS), _line(author, AUTHOR_CHARS)
                found.append(OpenRef(ref=f"refs/heads/{branch}", head=id, title=title, author=author))
        found += [OpenRef(ref=ref, head=id, refused=why) for ref, (id, why) in self._malformed.items()]
        changes: list[OpenRef] = []
        left_out = size = 0
        cut = False
        for each in found:
            if each.ref.startswith(FOR):
                taken = target_of(each.ref, self.settings.branches) is not None and is_ref(each.ref)
                size += len(each.model_dump_json().encode())
                if taken and len(changes) < self._most and size <= MAX_REFS_BYTES:
                    changes.append(each)
                else:
                    left_out += 1
                    cut = cut or taken
        return Refs(branches, tuple(changes), left_out, cut)

    def holds(self, *commits: str) -> bool:
        """True when the mirror has all of these objects."""
        asked = "".join(f"{check_id(id)}\n" for id in commits).encode()
        answer = self.open().run("cat-file", "--batch-check=%(objectname)", stdin=asked)
        return b" missing" not in answer.out

    def is_ancestor(self, commit: str, tip: str) -> bool:
        return self.open().ask("merge-base", "--is-ancestor", check_id(commit), check_id(tip)).code == 0

    # -- writing --------------------------------------------------------------------------------------------------

    def keep(self, found: Sequence[git_objects.GitObject]) -> None:
        self.open()
        for each in found:
            git_objects.write(self.objects, each)

    async def land(self, branch: str, old: str, new: str, ref: str, head: str, options: Sequence[str]) -> Answer:
        """Move the branch from old to new and remove the change's ref, both or neither. The answer may be lost."""
        target = check_ref(f"refs/heads/{branch}")
        git = self.open()
        return await asyncio.to_thread(
            git.ask,
            "push",
            "--quiet",
            "--atomic",
            *(f"--push-option={option}" for option in options),
            f"--force-with-lease={target}:{check_id(old)}",
            f"--force-with-lease={check_ref(ref)}:{check_id(head)}",
            "--",
            self.settings.url,
            f"{check_id(new)}:{target}",
            f":{ref}",
            seconds=self._seconds,
        )

    # -- calls ----------------------------------------------------------------------------------------------------

    def _ask(self, *args: str, stdin: bytes = b"") -> Answer:
        try:
            return self.open().ask(*args, stdin=stdin, seconds=self._seconds)
        except GitTooMuch as error:
            raise DependencyDown(f"{self.repo}: {error}") from None

    def _away(self, answer: Answer) -> DependencyDown:
        return DependencyDown(why_away(self.repo, answer))


_REFUSED = (
    "does not appear to be a git repository",
    "does not exist",
    "not found",
    "permission denied",
    "authentication failed",
    "could not read username",
    "could not read password",
    "access denied",
    "403",
    "401",
)


_MALFORMED = "fsck error"


def why_away(repo: str, answer: Answer) -> str:
    """One sentence on a call to the other side that failed; what Git said is redacted already."""
    said = str(GitFailed("call", answer)).partition(": ")[2]
    if _MALFORMED in answer.err:
        return f"the repository {repo} holds a malformed object; write that commit anew and push again ({said})"
    if "dubious ownership" in answer.err:
        return f"the repository {repo} belongs to another user than Towline's ({said})"
    if any(word in answer.err.lower() for word in _REFUSED):
        return f"the repository {repo} does not exist or refuses the login ({said})"
    return f"the repository {repo} does not answer ({said})"


def _records(out: bytes) -> list[tuple[str, str, str, str]]:
    fields = out.decode("utf-8", "replace").split("\0")
    rows = zip(*(fields[start::4] for start in range(4)), strict=False)
    return [(id.strip(), ref, title, author) for id, ref, title, author in rows]


def _line(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text).strip()[:most]
