"""Logs hold fields and no credentials."""

from __future__ import annotations

import io
import json
import logging

import pytest

from towline.telemetry.log import configure


@pytest.fixture(autouse=True)
def _restore_logging() -> object:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    return None


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
