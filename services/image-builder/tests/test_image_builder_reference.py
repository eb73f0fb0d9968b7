"""Image references are read as every container tool reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import BadInput
from towline_image_builder.reference import Reference, parse

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", Reference("docker.io", "library/debian", "latest", None)),
        ("debian:12", Reference("docker.io", "library/debian", "12", None)),
        ("team/app", Reference("docker.io", "team/app", "latest", None)),
        ("localhost/app", Reference("localhost", "app", "latest", None)),
        ("127.0.0.1:5000/a/b:t", Reference("127.0.0.1:5000", "a/b", "t", None)),
        ("[::1]:5000/a", Reference("[::1]:5000", "a", "latest", None)),
        (f"quay.example/a@{DIGEST}", Reference("quay.example", "a", None, DIGEST)),
        (f"quay.example/a:1@{DIGEST}", Reference("quay.example", "a", "1", DIGEST)),
    ],
)
def test_a_reference_is_taken_apart(text: str, expected: Reference) -> None:
    assert parse(text) == expected
    assert parse(str(expected)) == expected


def test_the_digest_is_what_is_asked_for() -> None:
    assert parse(f"quay.example/a:1@{DIGEST}").wanted == DIGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "A",
        "a:",
        "a@",
        "a@sha256:0",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a b",
        "a\n",
        "../a",
        "http://x/a",
        "a:b:c",
        "x" * 600,
    ],
)
def test_what_is_none_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(BadInput, match="expected"):
        parse(text)


@given(st.text(alphabet="aA0.:/@-_[]\n ", max_size=40))
def test_whatever_is_accepted_can_be_written_and_read_again(text: str) -> None:
    try:
        found = parse(text)
    except BadInput:
        return
    assert parse(str(found)) == found
    assert not set("\n ") & set(str(found))
