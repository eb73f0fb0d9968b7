"""What a check has to say. Standard library only: every kind of worker imports it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MOST_PROBLEMS = 50


@dataclass
class Found:
    """What a check has to say; it becomes JSON as it is."""

    problems: list[dict[str, Any]] = field(default_factory=list)
    """`message`, `file`, `line`."""
    notes: list[str] = field(default_factory=list)
    broken: str | None = None
    """Why the check could not be made; nobody's fault who wrote the manifests."""

    def add(self, message: str, file: str | None = None, line: int | None = None) -> None:
        plain = "".join(char if char.isprintable() else "?" for char in message[:600])
        problem = {"message": plain, "file": file, "line": line}
        if problem not in self.problems:
            self.problems.append(problem)
