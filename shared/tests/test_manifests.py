"""Manifests as Kubernetes reads them: scalars, bounds, and what each document must be."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.manifests import BadDocument, objects, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("~", None),
        ("0o17", 15),
        ("017", 15),
        ("08", 8.0),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1e3", 1000.0),
        ("&x 1e3", 1000.0),
        ("1.10", 1.1),
        ("'1'", "1"),
        ("'yes'", "yes"),
        ("08:30", "08:30"),
        ("2026-01-02", "2026-01-02"),
        ("0x", "0x"),
        ("!!str 5", "5"),
        ("!!str 1e3", "1e3"),
        ("ü!", "ü!"),
        ("{<<: {a: 1}, b: 2}", {"a": 1, "b": 2}),
    ],
)
def test_scalars_are_what_kubernetes_reads(text: str, value: object) -> None:
    """ci-runner failed on `0x` and took `&x 1e3` for text, the reconciler took `!!str 1e3` for a number."""
    found = read(f"ü: 1\nx: {text}\n".encode())[0].value["x"]
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 121)),
            "values",
        ),
        (b"[" * 100 + b"]" * 100, "nested deeper than 60 levels"),
        (b"a: 1\na: 2\n", "stands twice"),
        (b"a: [\n", "not YAML"),
        (b"a: !!python/object:os.system x\n", "is not taken here"),
        (b"a: !!set {x: }\n", "is not taken here"),
        (b"a: \xff\n", "not UTF-8"),
        (b"a: 1e999\n", "too large"),
        (b"a: 18446744073709551616\n", "64 bits"),
        (b"? [a]\n: b\n", "a key must be plain text"),
    ],
)
def test_a_stream_that_would_grow_or_mean_two_things_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        read(text)


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(text: bytes) -> None:
    with suppress(BadDocument):
        list(objects(read(text)))


def test_a_list_is_taken_apart_and_its_items_keep_their_lines() -> None:
    text = b"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: A, metadata: {name: a}}\n"
    assert [(each.value["kind"], each.line) for each in objects(read(text))] == [("A", 4)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"- 1\n", "must be an object"),
        (b"kind: A\n", "no apiVersion"),
        (b"apiVersion: v1\nkind: A\nmetadata: {}\n", r"no metadata\.name"),
        (b"apiVersion: v1\nkind: A\nmetadata: {generateName: a-}\n", "generateName gives no lasting name"),
    ],
)
def test_a_document_that_is_no_object_says_what_it_lacks(text: bytes, said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        list(objects(read(text)))
