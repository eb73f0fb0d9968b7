"""Logs: a constant message with fields, one JSON object per line, or readable lines on a terminal.

Credentials are taken out of every message and field here, whoever logs. Inside `bound`, which the delivery puts around
every turn and effect, each line carries the ids of what it is about.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

import orjson

from towline.errors import redact

QUIET = ("httpx", "httpcore", "aiohttp.access", "git", "kubernetes_asyncio")
"""Libraries that say more than a reader of Towline's log wants to know."""

_bound: ContextVar[Mapping[str, str]] = ContextVar("towline_log_fields")
_NOTHING: Mapping[str, str] = MappingProxyType({})
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class bound:  # noqa: N801 it reads as a verb: with bound(event=…)
    """Give these fields to every line logged in the block and in tasks begun there; None leaves one out."""

    __slots__ = ("_fields", "_token")

    def __init__(self, **fields: str | None) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        given = {name: value for name, value in self._fields.items() if value is not None}
        self._token = _bound.set({**_bound.get(_NOTHING), **given})

    def __exit__(self, *_: object) -> None:
        _bound.reset(self._token)


def configure(level: str = "INFO", *, json: bool | None = None, stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (stderr); JSON unless it is a terminal, or as told."""
    target = stream or sys.stderr
    handler = logging.StreamHandler(target)
    as_json = not target.isatty() if json is None else json
    handler.setFormatter(JsonLines() if as_json else PlainLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    extra = {**_bound.get(_NOTHING), **{name: value for name, value in vars(record).items() if name not in _STANDARD}}
    return {name: redact(value) if isinstance(value, str) else value for name, value in extra.items()}


def _trace_of(record: logging.LogRecord) -> str:
    return redact("".join(traceback.format_exception(*record.exc_info))) if record.exc_info else ""


class JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
            **_fields(record),
        }
        if said := _trace_of(record):
            line["exception"] = said
        return orjson.dumps(line, default=str).decode()


def _shown(text: str) -> str:
    """As one line, with an escape for each character that a terminal would obey or that would begin another line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


class PlainLines(logging.Formatter):
    """What a repository brought into a message (a file's name, a program's words) is shown and never done."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = " ".join(_shown(f"{name}={value}") for name, value in _fields(record).items())
        line = f"{time} {record.levelname:<7} {_shown(redact(record.getMessage()))}"
        said = "\n".join(map(_shown, _trace_of(record).split("\n")))
        return "\n".join(part for part in (f"{line}  {fields}".rstrip(), said) if part)
