"""Short names for people: as much of a repository's id as tells it from the others, and the beginning of a digest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_DIGEST = re.compile(r"(sha256:[0-9a-f]{12})[0-9a-f]{52}")


def short_repos(repos: Iterable[str]) -> dict[str, str]:
    """Repository id → its last path parts, as many as no other repository ends with. Pure and without order."""
    ids = sorted(set(repos))
    return {each: _shortest(each, ids) for each in ids}


def _shortest(repo: str, others: list[str]) -> str:
    parts = repo.split("/")
    for count in range(1, len(parts)):
        ending = "/".join(parts[-count:])
        if not any(other != repo and _ends_with(other, ending) for other in others):
            return ending
    return repo


def _ends_with(repo: str, ending: str) -> bool:
    return repo == ending or repo.endswith(f"/{ending}")


def repo_of(change: str) -> str:
    """`<repo>!<topic>` → `<repo>`; topics may hold a `!` of their own, repositories here do not."""
    return change.partition("!")[0]


def short_change(change: str, short: Mapping[str, str]) -> str:
    """A change by the short name of its repository; unknown ones as they are."""
    repo, mark, topic = change.partition("!")
    return f"{short.get(repo, repo)}{mark}{topic}"


def short_digests(text: str) -> str:
    """`sha256:` with the first 12 of its digits, wherever it stands in `text`."""
    return _DIGEST.sub(r"\1…", text)
