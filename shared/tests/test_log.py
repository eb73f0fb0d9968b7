"""Logs hold fields and no credentials."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from towline.telemetry.log import QUIET, bound, configure


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in QUIET}
    yield
    root.handlers[:], root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_line_is_json_with_its_fields_and_without_credentials() -> None:
    out = io.StringIO()
    configure("info", json=True, stream=out)
    logging.getLogger("x").info("pushed", extra={"change": "a!b", "url": "https://bob:s3cret@git.example/x"})
    line = json.loads(out.getvalue())
    assert line["message"] == "pushed"
    assert line["change"] == "a!b"
    assert "s3cret" not in out.getvalue()


def test_an_exception_is_told_without_credentials() -> None:
    out = io.StringIO()
    configure("info", json=True, stream=out)
    try:
        int("token=s3cret")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert "ValueError" in json.loads(out.getvalue())["exception"]
    assert "s3cret" not in out.getvalue()


def raise_with(text: str) -> None:
    raise ValueError(text)


def test_a_message_neither_steers_a_terminal_nor_forges_a_line() -> None:
    out = io.StringIO()
    configure("info", json=False, stream=out)
    try:
        raise_with("\x1b[2J\n")
    except ValueError:
        logging.getLogger("x").exception("a\x1b[2Jb\n00:00:00 INFO forged", extra={"file": "c\rd\u202e"})
    lines = out.getvalue().splitlines()
    assert all(line.isprintable() for line in lines)
    assert r"a\x1b[2Jb\n00:00:00 INFO forged  file=c\rd\u202e" in lines[0]
    assert lines[1].startswith("Traceback")


async def test_a_line_carries_what_its_block_is_about_also_in_a_task_begun_there() -> None:
    out = io.StringIO()
    configure("info", json=True, stream=out)
    with bound(event="e1", change="a!b", trace=None):
        logging.getLogger("x").info("inside")
        task = asyncio.create_task(_say("later"))
    await task
    logging.getLogger("x").info("outside")
    inside, later, outside = map(json.loads, out.getvalue().splitlines())
    assert (inside["event"], inside["change"]) == (later["event"], later["change"]) == ("e1", "a!b")
    assert "trace" not in inside
    assert "event" not in outside


async def _say(text: str) -> None:
    logging.getLogger("x").info(text)
