"""Whether a job's `when` matches. Pure, and bounded whatever patterns a repository brings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from towline.project.model import When

MOST_COMPARISONS = 500_000
"""Of path segments; beyond it a job runs, as it does when the changed paths are too many to be told."""


def why_not(when: When, target: str, changed: Sequence[str] | None) -> str | None:
    """Why a job is skipped, as a sentence; None when it runs."""
    if when.branches and not _any_matches(when.branches, (target,)):
        return f"the target branch {target} matches none of its when.branches"
    if when.paths and changed is not None and not _any_matches(when.paths, changed):
        return "no changed file matches its when.paths"
    return None


def _any_matches(patterns: Iterable[str], paths: Iterable[str]) -> bool:
    split_patterns = [_segments(pattern) for pattern in patterns]
    split_paths = [path.split("/") for path in paths]
    if sum(map(len, split_patterns)) * sum(map(len, split_paths)) > MOST_COMPARISONS:
        return True
    return any(_matches(pattern, path) for pattern in split_patterns for path in split_paths)


def _segments(pattern: str) -> list[str]:
    """`docs/` means all below `docs`."""
    return (f"{pattern}**" if pattern.endswith("/") else pattern).removeprefix("./").split("/")


def _matches(pattern: list[str], path: list[str]) -> bool:
    """`*` stays inside of one folder, `**` stands for any number of folders."""
    reached = {0}
    for segment in pattern:
        if segment == "**":
            reached = set(range(min(reached), len(path) + 1)) if reached else set()
        else:
            reached = {at + 1 for at in reached if at < len(path) and fnmatchcase(path[at], segment)}
    return len(path) in reached
