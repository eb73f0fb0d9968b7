"""Logs: a constant message with fields, one JSON object per line, or readable lines on a terminal.

Credentials are taken out of every message and field here, whoever logs. Inside `bound`, which the delivery puts around
every turn and effect, each line carries the ids of what it is about.
"""

from __future__ import annotations

import logging
import sys
import traceback
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

import orjson

from towline.errors import redact
from towline.telemetry import trace

QUIET = ("httpx", "httpcore", "aiohttp.access", "git", "kubernetes_asyncio")
"""Libraries that say more than a reader of Towline's log wants to know."""

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class bound:  # noqa: N801 it reads as a verb: with bound(event=…)
    """Give these fields to every line logged in the block and in tasks begun there; None leaves one out.

    A `traceparent` is said as `trace`: the id of the change's trace where there is a `change`, else its own.
    """

    __slots__ = ("_fields", "_outer", "_token")

    def __init__(self, **fields: str | None) -> None:
        self._fields = fields

    def __enter__(self) -> None:
        self._outer = _bound.get()
        self._token = _bound.set(self)

    def __exit__(self, *_: object) -> None:
        _bound.reset(self._token)

    def said(self) -> dict[str, str]:
        """Made for a line that is logged, not for every block: most blocks log nothing."""
        said = {} if self._outer is None else self._outer.said()
        own = {name: value for name, value in self._fields.items() if value is not None}
        traceparent = own.pop("traceparent", None)
        if "traceparent" in self._fields and (id := trace.trace_id_in(traceparent, change=own.get("change"))):
            own["trace"] = id
        return {**said, **own}


_bound: ContextVar[bound | None] = ContextVar("towline_log_fields", default=None)


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
    about = _bound.get()
    own = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    extra: dict[str, object] = {**({} if about is None else about.said()), **own}
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
