"""A stranger's record is read without fail, no byte of it is lost, and no bytes stop a service."""

from __future__ import annotations

import base64
from contextlib import suppress

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from towline.bus.foreign import RAW_HEADERS, RAW_KEY, portable
from towline.bus.port import Record
from towline.delivery import codec
from towline.errors import Undecodable
from towline.events import ChangeCreated

HEADERS = st.lists(st.tuples(st.sampled_from(["ce_type", "ce_id", "x", ""]), st.none() | st.binary(max_size=5)))


@given(st.none() | st.binary(max_size=12), HEADERS)
def test_key_and_headers_of_a_foreign_record_can_be_told_again(
    key: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    text, named = portable(key, headers)
    assert named.pop(RAW_KEY, text.encode()) == (key or b"")
    if RAW_HEADERS in named:
        listed = orjson.loads(named[RAW_HEADERS])
        assert [(name, None if value is None else base64.b64decode(value)) for name, value in listed] == headers
    else:
        assert list(named.items()) == headers


def test_a_header_name_that_is_no_text_is_read_and_its_bytes_are_kept() -> None:
    _, named = portable(b"k", [(b"\xff\xc3\xa9".decode(errors="surrogateescape"), b"v"), ("ce_id", b"1")])

    assert named.keys() == {"\ufffd\u00e9", "ce_id", RAW_HEADERS}
    name, value, raw = orjson.loads(named[RAW_HEADERS])[0]
    assert (name, base64.b64decode(value), base64.b64decode(raw)) == ("\ufffd\u00e9", b"v", b"\xff\xc3\xa9")


def test_a_key_that_is_no_text_shares_no_lane() -> None:
    text, named = portable(b"\xff", [])
    with pytest.raises(Undecodable, match="no UTF-8"):
        codec.decode(Record("t", 0, 0, text, b"", named, 0))


EVENT = {"customData": {"repo": "r", "change": "r!t", "target": "main", "head": "h"}}
GOOD = {
    "ce_type": ChangeCreated.type.encode(),
    "ce_id": b"1",
    "ce_source": b"/t",
    "ce_time": b"2026-01-01T00:00:00Z",
}


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "ce_sequence", "ce_towlinelane", "ce_traceparent"]), st.binary(max_size=30)
    ),
    st.none() | st.binary(max_size=30) | st.sampled_from([b"[]", b"null", b'{"customData": []}', orjson.dumps(EVENT)]),
)
@example({"ce_time": b"0001-01-01T00:00:00+23:59"}, orjson.dumps(EVENT))
@example({}, b"[" * 100_000)
@example({}, b'{"customData":' * 5000 + b"1" + b"}" * 5000)
def test_no_bytes_bring_out_more_than_undecodable(headers: dict[str, bytes], value: bytes | None) -> None:
    """A time before the first year ended a service by an OverflowError, and again at each start."""
    with suppress(Undecodable):
        codec.decode(Record("t", 0, 0, "k", value, {**GOOD, **headers}, 0))
