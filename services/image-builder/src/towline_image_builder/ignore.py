"""`.dockerignore`: which files of a context the build must not see.

Applied before the content key is taken and before the build sees the context, so both are about the same files.
A pattern is relative to the context's top; `*` and `?` stay inside one folder, `**` spans folders, `!` takes back,
the last match wins; a matched folder takes all below it along. Standard library only: it runs in a jailed child.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

MAX_PATTERNS = 500
MAX_PATTERN_LENGTH = 300
MAX_WILDCARDS = 8
"""Per pattern: each one multiplies the work of a failed match."""


class IgnoreProblem(Exception):
    """What is wrong with the file; `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message, self.line = message, line


def read(text: str) -> Callable[[str], bool]:
    """The rule of a `.dockerignore`: path relative to the context → True when ignored. Raises IgnoreProblem."""
    rules = _rules(text)

    def ignored(path: str) -> bool:
        steps = path.split("/")
        way = ["/".join(steps[:count]) for count in range(1, len(steps) + 1)]
        verdict = False
        for pattern, takes_back in rules:
            if verdict is takes_back and any(map(pattern.fullmatch, way)):
                verdict = not takes_back
        return verdict

    return ignored


def _rules(text: str) -> list[tuple[re.Pattern[str], bool]]:
    rules: list[tuple[re.Pattern[str], bool]] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        takes_back = line.startswith("!")
        path = posixpath.normpath(line.removeprefix("!").strip()).lstrip("/")
        if path in {"", "."}:
            continue
        if len(rules) == MAX_PATTERNS or len(path) > MAX_PATTERN_LENGTH:
            raise IgnoreProblem(f"at most {MAX_PATTERNS} patterns of {MAX_PATTERN_LENGTH} characters are read", number)
        if path.count("*") > 2 * MAX_WILDCARDS:
            raise IgnoreProblem(f"a pattern may hold at most {MAX_WILDCARDS} wildcards", number)
        rules.append((_compiled(path, number), takes_back))
    return rules


def _compiled(pattern: str, line: int) -> re.Pattern[str]:
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            out.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            out.append(".*")
            at += 2
        elif char == "*":
            out.append("[^/]*")
            at += 1
        elif char == "?":
            out.append("[^/]")
            at += 1
        elif char == "[":
            end = pattern.find("]", at + 2)
            if end < 0:
                raise IgnoreProblem(f"{pattern[:80]!r}: [ has no ]", line)
            out.append(_char_class(pattern[at + 1 : end]))
            at = end + 1
        elif char == "\\" and at + 1 < len(pattern):
            out.append(re.escape(pattern[at + 1]))
            at += 2
        else:
            out.append(re.escape(char))
            at += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise IgnoreProblem(f"{pattern[:80]!r} is no pattern", line) from None


def _char_class(inside: str) -> str:
    """Single characters and ranges, each escaped: nothing of it means more to `re` than it does here."""
    negated = inside.startswith("^")
    body, at, out = inside.removeprefix("^"), 0, []
    while at < len(body):
        if body[at + 1 : at + 2] == "-" and at + 2 < len(body):
            out.append(f"{re.escape(body[at])}-{re.escape(body[at + 2])}")
            at += 3
        else:
            out.append(re.escape(body[at]))
            at += 1
    return f"[{'^' if negated else ''}{''.join(out)}]"
