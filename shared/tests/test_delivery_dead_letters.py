"""What stands in a `.dead` topic, as pure functions: no byte is lost, and what was said of a letter counts once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.bus.port import MAX_RECORD_BYTES, NewRecord, Record
from towline.bus.size import check_sizes
from towline.delivery import letters
from towline.delivery.letters import Kind, Letter, Said, fold, letter_records, record_of

SERVICE, DEAD = "notifier", "towline.notifier.dead"
NAMES = st.one_of(
    st.sampled_from(["ce_type", "ce_id", "tl_reason", "tl_origin", "tl_dead_id", "tl_dead_said", "tl_dead_kept_x"]),
    st.text(max_size=20),
    st.text(max_size=8).map(lambda text: letters.PREFIX + text),
)
HEADERS = st.dictionaries(NAMES, st.binary(max_size=40), max_size=6)
RECORDS = st.builds(
    Record,
    topic=st.sampled_from(["towline.changes", "towline.notifier.inbox", "a/b"]),
    partition=st.integers(0, 11),
    offset=st.integers(0, 2**40),
    key=st.text(max_size=30),
    value=st.none() | st.binary(max_size=100),
    headers=HEADERS,
    timestamp_ms=st.integers(0, 2**41),
)
SMALL = Record("towline.changes", 3, 9, "local/app", b"?", {"ce_type": b"a.type", "x": b"\xff\x00"}, 5)


def log_of(records: Iterable[NewRecord], at: int = 100) -> list[Record]:
    """As the bus would give them back."""
    return [
        Record(new.topic, new.partition or 0, at + number, new.key, new.value, new.headers, 1000 + number)
        for number, new in enumerate(records)
    ]


def given_up(record: Record, reason: str = "why", kind: Kind = Kind.PARKED) -> list[NewRecord]:
    return letter_records(DEAD, 3, SERVICE, record, kind=kind, reason=reason, version="1.2")


def only(records: Sequence[Record]) -> Letter:
    [letter] = fold(SERVICE, records).letters
    return letter


@given(RECORDS, st.text(max_size=50), st.sampled_from(Kind))
def test_a_record_comes_back_from_its_letter_as_it_was(record: Record, reason: str, kind: Kind) -> None:
    log = log_of(given_up(record, reason, kind))
    letter = only(log)
    assert record_of(letter, log) == record
    assert (letter.kind, letter.version, letter.times, letter.open) == (kind, "1.2", 1, True)
    assert letter.origin == letters.origin_of(record)


@pytest.mark.parametrize("size", [0, 60_000, MAX_RECORD_BYTES - 9, MAX_RECORD_BYTES, 3 * MAX_RECORD_BYTES])
def test_a_large_record_is_cut_into_parts_and_never_shortened(size: int) -> None:
    record = replace(SMALL, value=bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    written = given_up(record, reason="long " * 2000)
    check_sizes(written)
    log = log_of(written)
    assert record_of(only(log), log) == record
    assert only(log).bytes == size
    assert (len(written) > 1) == (size > MAX_RECORD_BYTES - 4000)


def test_a_key_that_is_too_long_to_file_under_is_kept_all_the_same() -> None:
    record = replace(SMALL, key="k" * 300_000, value=None)
    log = log_of(given_up(record))
    assert record_of(only(log), log) == record
    assert (len(only(log).key), only(log).whole_key) == (letters.LONGEST_KEY, False)


@given(st.text(max_size=3000))
def test_a_reason_fits_a_header_in_whole_characters(reason: str) -> None:
    said = letters.shortened(reason)
    assert len(said) <= letters.REASON_BYTES
    assert reason.encode(errors="replace").startswith(said)


def test_the_same_record_given_up_twice_is_one_letter() -> None:
    log = log_of([*given_up(SMALL, "first"), *given_up(SMALL, "the key is parked: first")])
    assert only(log).reason == "first"
    assert only(log).times == 1


def test_another_record_at_the_same_place_is_another_letter() -> None:
    """A topic that was made anew counts its offsets from zero again."""
    log = log_of([*given_up(SMALL), *given_up(replace(SMALL, value=b"!"))])
    assert len(fold(SERVICE, log).letters) == 2


def test_a_letter_says_its_trace_and_type() -> None:
    headers = {"ce_type": b"a.type", "ce_id": b"e1", "ce_traceparent": b"00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01"}
    letter = only(log_of(given_up(replace(SMALL, headers=headers))))
    assert (letter.type, letter.event, letter.trace) == ("a.type", "e1", "ab" * 16)


def resolved(letter: Letter, how: Said, by: str = "ada") -> NewRecord:
    return letters.resolved_record(DEAD, letter, how, by=by, reason="seen")


def test_the_first_that_resolves_a_letter_counts() -> None:
    letter = only(log_of(given_up(SMALL)))
    log = log_of([*given_up(SMALL), resolved(letter, Said.DROPPED), resolved(letter, Said.REPLAYED, "bob")])
    resolution = only(log).resolution
    assert resolution is not None
    assert (resolution.how, resolution.by, resolution.reason, resolution.at_ms) == (Said.DROPPED, "ada", "seen", 1001)


def test_a_replay_that_failed_leaves_the_letter_open_and_says_so() -> None:
    letter = only(log_of(given_up(SMALL)))
    again = letters.failed_record(DEAD, letter, kind=Kind.UNDECIDED, reason="still", version="1.3")
    after = only(log_of([*given_up(SMALL), again]))
    assert (after.open, after.times, after.reason, after.version) == (True, 2, "still", "1.3")
    assert (after.first_ms, after.last_ms) == (1000, 1001)


def test_what_is_said_of_a_letter_that_is_gone_changes_nothing() -> None:
    letter = only(log_of(given_up(SMALL)))
    assert fold(SERVICE, log_of([resolved(letter, Said.DROPPED)])).letters == ()


BROKEN = st.dictionaries(
    st.sampled_from([letters.ID, letters.SAID, letters.PART, letters.ORIGIN, letters.WRITTEN, letters.KIND]),
    st.sampled_from([b"", b"\xff", b"dropped", b"1/2", b"2/1", b"0/0", b"-3/1", b"x", b"towline.changes/3/9", b"9"])
    | st.binary(max_size=6),
)


@given(st.lists(st.tuples(BROKEN, st.none() | st.binary(max_size=30)), max_size=8))
def test_what_cannot_be_read_is_counted_and_hides_nothing(broken: list[tuple[dict[str, bytes], bytes | None]]) -> None:
    garbage = [NewRecord(DEAD, "k", value, headers, 3) for headers, value in broken]
    folded = fold(SERVICE, log_of([*garbage, *given_up(SMALL), *garbage]))
    id = letters.letter_id(SERVICE, SMALL)
    assert [letter.open for letter in folded.letters if letter.id == id] == [True]


def test_an_unreadable_resolution_leaves_its_letter_open() -> None:
    letter = only(log_of(given_up(SMALL)))
    for said in (b"\xff\xfe", b"burnt", b""):
        broken = replace(resolved(letter, Said.DROPPED), headers={letters.SAID: said, letters.ID: letter.id.encode()})
        folded = fold(SERVICE, log_of([*given_up(SMALL), broken]))
        assert (folded.letters[0].open, folded.unreadable) == (True, 1)


@given(st.permutations(range(6)), st.data())
def test_letters_stay_in_their_order_whatever_is_said_of_them(order: list[int], data: st.DataObject) -> None:
    records = [replace(SMALL, offset=number) for number in range(6)]
    written = [new for record in records for new in given_up(record)]
    ids = [letters.letter_id(SERVICE, record) for record in records]
    known = {letter.id: letter for letter in fold(SERVICE, log_of(written)).letters}
    said = [resolved(known[ids[number]], data.draw(st.sampled_from([Said.DROPPED, Said.REPLAYED]))) for number in order]
    folded = fold(SERVICE, log_of([*written, *said[:3]]))
    assert [letter.id for letter in folded.letters] == ids
    assert {letter.id for letter in folded.letters if letter.open} == {ids[number] for number in order[3:]}


@pytest.mark.parametrize(
    "forged",
    [
        {letters.ID: b""},
        {letters.WRITTEN: b"1" + b"0" * 30},
        {letters.ORIGIN: b"t/99999999999999999999/1"},
        {letters.ORIGIN: b"t/1/99999999999999999999"},
    ],
)
def test_a_forged_letter_is_none(forged: dict[str, bytes]) -> None:
    """One without an id hid every letter before it from a replay; one with such a number ended `dead list --json`."""
    [new] = given_up(SMALL)
    behind = given_up(replace(SMALL, offset=10))
    folded = fold(SERVICE, log_of([replace(new, headers={**new.headers, **forged}), *behind]))
    assert ([letter.origin for letter in folded.letters], folded.unreadable) == (["towline.changes/3/10"], 1)
