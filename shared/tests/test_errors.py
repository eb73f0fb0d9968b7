"""Credentials in foreign text never come through."""

from __future__ import annotations

import pytest

from towline.errors import redact


@pytest.mark.parametrize(
    "text",
    [
        "fatal: could not read from https://bob:s3cret@git.example/x.git",
        "https://s3cret@git.example/x",
        "Authorization: Bearer s3cret",
        "authorization: Basic s3cret",
        "POST /hook?key=s3cret&x=1",
        "token=s3cret",
        'error: password=s3cret"',
        "https://flow.example/invoke?api=1&sig=s3cret",
    ],
)
def test_a_credential_is_taken_out(text: str) -> None:
    assert "s3cret" not in redact(text)
    assert "***" in redact(text)


def test_other_text_stays_as_it_is() -> None:
    text = "deploy/app.yaml:3: replicas: expected an integer, found 'three'"
    assert redact(text) == text
