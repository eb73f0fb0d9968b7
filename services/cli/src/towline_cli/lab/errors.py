"""Owns what a failure of the lab looks like: which part, what happened, which log to read, what to try.

The rule that must hold: every failure that a user can meet is a `LabError`; a traceback is a defect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LabError(Exception):
    """A part could not be installed, started or stopped.

    `part` is the name a user knows (kubernetes, registry, kafka, debian packages …), `log` the file that holds the
    whole story where there is one, `remedy` the next command or act to try.
    """

    def __init__(self, part: str, message: str, *, log: Path | None = None, remedy: str = "") -> None:
        super().__init__(part, message)
        self.part, self.message, self.log, self.remedy = part, message, log, remedy

    def __str__(self) -> str:
        sentences = [f"{self.part}: {self.message}"]
        sentences += [f"The log is {self.log}."] if self.log else []
        sentences += [self.remedy] if self.remedy else []
        return " ".join(sentences)


class AlreadyRunning(LabError):
    """An instance of that name runs and belongs to somebody."""

    def __init__(self, name: str, since: str) -> None:
        super().__init__(
            f"instance {name!r}",
            f"already runs ({since}).",
            remedy=f"Stop it with `make down LAB={name}`, or start another one with LAB=<name>.",
        )
        self.name = name
