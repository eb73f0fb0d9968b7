"""The shape every event has, and the words they share.

An event is a fact in the past tense. Rules that must hold:

- Only optional fields are ever added; a reader ignores fields it does not know and maps an unknown
  enum member to `UNKNOWN`, so old and new versions of the services run side by side.
- Every event carries what later stages need, so that the order between topics never matters.
- The wire form is a CloudEvent whose data is a CDEvent 0.5.1 (`to_cdevent`): CDEvents' own words stand in
  `subject.content`, Towline's in `customData`, and only `customData` is read back.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from types import NoneType
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, Field

CDEVENTS_VERSION = "0.5.1"


class Word(StrEnum):
    """A closed set of words on the wire; one this version does not know becomes UNKNOWN."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        unknown = cls.__members__.get("UNKNOWN")
        return unknown if isinstance(value, str) else None


class Purpose(Word):
    CHECK = "check"
    """A new head is tested; nothing is pushed."""
    GATE = "gate"
    """The change is queued: what passes here is what lands."""
    LANDING = "landing"
    """The gate candidate with its pins written; only the built-in checks run."""
    UNKNOWN = "unknown"


class Outcome(Word):
    """CDEvents' words for how a run ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    ERROR = "error"
    CANCEL = "cancel"
    UNKNOWN = "unknown"


class Verdict(Word):
    """What a check says of a change; `error` means the check itself could not be made."""

    VALID = "valid"
    INVALID = "invalid"
    ERROR = "error"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def outcome(self) -> Outcome:
        return {
            Verdict.VALID: Outcome.SUCCESS,
            Verdict.INVALID: Outcome.FAILURE,
            Verdict.ERROR: Outcome.ERROR,
            Verdict.SKIPPED: Outcome.FAILURE,
            Verdict.CANCELLED: Outcome.CANCEL,
        }.get(self, Outcome.UNKNOWN)


class Part(BaseModel):
    """A value inside an event: immutable, and lenient to fields from a newer version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """None is not written, so a field that may be None and has no default could not be read back."""
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if field.is_required() and NoneType in get_args(field.annotation):
                raise TypeError(f"{cls.__name__}.{name} may be None and is required; make None its default")


class Problem(Part):
    """One thing that is wrong, said so that its author can mend it."""

    message: str = Field(description="What is wrong, what was expected and what to do.")
    file: str | None = Field(None, description="Path inside the repository.")
    line: int | None = Field(None, description="Line in the file, from 1.")
    check: str | None = Field(None, description="The check or job that found it.")

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return f"{where}: {self.message}" if where else self.message


MOST_PROBLEMS = 50
MOST_PROBLEM_BYTES = 64 * 1024
"""Of the problems of one event together, so that it and the state that keeps them stay under the bus's record limit."""
MOST_MESSAGE_CHARS, MOST_FILE_CHARS = 4000, 1000


def within_bounds(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """As many as one event carries, the first of them always; a repository may bring any number of any length."""
    kept: list[Problem] = []
    left = MOST_PROBLEM_BYTES
    for problem in problems:
        if len(kept) == MOST_PROBLEMS:
            break
        file = None if problem.file is None else problem.file[:MOST_FILE_CHARS]
        short = problem.model_copy(update={"message": problem.message[:MOST_MESSAGE_CHARS], "file": file})
        left -= len(short.model_dump_json().encode())
        if left < 0:
            break
        kept.append(short)
    return tuple(kept)


class Event(Part):
    """Base of all events. A class names its CloudEvents type once; `EVENT_TYPES` finds it again."""

    type: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("type", "")
        if name:
            if name in EVENT_TYPES:
                raise TypeError(f"two events are of type {name}: {EVENT_TYPES[name].__name__}, {cls.__name__}")
            EVENT_TYPES[name] = cls

    @property
    def subject(self) -> str:
        """What the event is about: the CloudEvents subject and the CDEvents subject id."""
        raise NotImplementedError(f"{type(self).__name__} must say what it is about")

    def content(self) -> dict[str, Any]:
        """The fields that CDEvents defines for this type's subject."""
        return {}

    def to_cdevent(self, *, id: str, source: str, time: datetime) -> dict[str, Any]:
        return {
            "context": {
                "specversion": CDEVENTS_VERSION,
                "id": id,
                "source": source,
                "type": type(self).type,
                "timestamp": time.isoformat(),
            },
            "subject": {"id": self.subject, "source": source, "content": self.content()},
            "customData": self.model_dump(mode="json", exclude_none=True),
            "customDataContentType": "application/json",
        }


EVENT_TYPES: dict[str, type[Event]] = {}
