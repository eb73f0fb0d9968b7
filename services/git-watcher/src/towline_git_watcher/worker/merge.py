"""The merge of a change into its base, by `merge-tree`: no work tree, no index, no hook, no filter."""

from __future__ import annotations

from towline.events import Problem
from towline_git_watcher.worker.listing import File, Refused, refuse_lfs
from towline_git_watcher.worker.repository import Missing, Repository

TITLE_CHARS = 200
_SHOWN = 20


def merged(repository: Repository, base: str, head: str) -> str:
    """The tree of the merge. Raises Refused for a conflict or nothing to land, Missing for an unknown commit."""
    for id in (base, head):
        if repository.size(id) is None:
            raise Missing(id)
    code, out, err = repository.run("merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", base, head)
    if code == 1:
        _refuse_conflict([name.decode("utf-8", "replace") for name in out.split(b"\0")[1:] if name])
    if code != 0:
        if "unrelated histories" in err:
            raise Refused("merge", "The change has no commit in common with its target; base it on the target.")
        raise RuntimeError(f"git merge-tree ended with {code}: {err[-500:]}")
    tree = out.split(b"\0")[0].decode().strip()
    if tree == _tree_of(repository, base):
        raise Refused("merge", "There is nothing to land: the target already holds all that the change brings.")
    return tree


def _refuse_conflict(names: list[str]) -> None:
    names = sorted(set(names))
    shown = ", ".join("".join(c if c.isprintable() else "?" for c in name) for name in names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    said = "conflicts with the target; merge or rebase onto it and push again"
    problems = [Problem(message=said, file=name[:400], check="merge") for name in names[:_SHOWN]]
    reason = f"The change conflicts with its target in {shown}{more}; merge or rebase onto it and push again."
    raise Refused("merge", reason[:600], problems)


def _tree_of(repository: Repository, commit: str) -> str:
    return _headers(repository.content(commit)).get("tree", "")


def contents(repository: Repository, files: list[File]) -> dict[str, bytes]:
    found = dict(zip((file.path for file in files), repository.contents(file.id for file in files), strict=True))
    for file in files:
        refuse_lfs(file, found[file.path])
    return found


def changed_paths(repository: Repository, base: str, tree: str) -> list[str]:
    out = repository.ask("diff-tree", "-r", "-z", "--name-only", "--no-renames", f"{base}^{{tree}}", tree)
    return [name.decode("utf-8", "replace") for name in out.split(b"\0") if name]


def authorship(repository: Repository, head: str) -> tuple[str, str, str]:
    """(author line, committer's date, title) of a commit, as Git has them."""
    raw = repository.content(head)
    headers = _headers(raw)
    date = " ".join(headers.get("committer", "").rsplit(" ", 2)[1:])
    message = raw.partition(b"\n\n")[2].decode("utf-8", "replace").lstrip("\n")
    title = "".join(c if c.isprintable() else " " for c in message.partition("\n")[0]).strip()
    return headers.get("author", ""), date, title[:TITLE_CHARS]


def _headers(commit: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in commit.partition(b"\n\n")[0].split(b"\n"):
        name, _, value = line.partition(b" ")
        if name:  # a continued line begins with a blank
            found.setdefault(name.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape"))
    return found
