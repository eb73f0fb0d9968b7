"""A log as a file: every line can be checked, and every offset is said anew."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.bus.moving.items import Begin, Committed, End, Head, Item, Tail
from towline.bus.moving.lines import LineWriter, opened, read_lines
from towline.bus.moving.offsets import Offsets
from towline.bus.port import Cleanup, NewRecord, Record, Topic, TopicPartition
from towline.delivery import ownership
from towline.delivery.dead import request
from towline.delivery.lane import SEPARATOR, Cursor
from towline.delivery.letters import ID, ORIGIN
from towline.delivery.model import ReplayRequested
from towline.delivery.places import Places
from towline.errors import BadInput

FACTS, STATE = Topic("a.facts", 2, retention=timedelta(days=1)), Topic("b.state", 2, Cleanup.COMPACT)
AT = TopicPartition("a.facts", 1)
OTHERS = (TopicPartition("a.facts", 0), TopicPartition("b.state", 0), TopicPartition("b.state", 1))

RECORDS = st.builds(
    Record,
    st.just("a.facts"),
    st.just(1),
    st.integers(0, 2**60),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.none() | st.binary(max_size=40) | st.text(st.characters(exclude_categories=["Cs"])).map(str.encode),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), st.binary(max_size=12), max_size=4),
    st.integers(0, 2**50),
)


def log(records: Iterable[Record] = ()) -> list[Item]:
    kept = sorted(records, key=lambda each: each.offset)
    head = Head("2026-01-01T00:00:00+00:00", "sqlite", (FACTS, STATE), ("readers",), ("readers",), damaged=True)
    end = End(AT, len(kept), max([9, *(each.offset + 1 for each in kept)]), ((3, 5), (7, 8)))
    empty = [each for at in OTHERS for each in (Begin(at), End(at, 0, 0))]
    return [head, Begin(AT), *kept, end, *empty, Committed("readers", AT, 4), Tail(len(kept))]


def lines(items: Iterable[Item]) -> bytes:
    file = io.BytesIO()
    writer = LineWriter(file)
    for item in items:
        writer.write(item)
    return file.getvalue()


def read(content: bytes) -> list[Item]:
    return list(read_lines(io.BytesIO(content), "log"))


def record(offset: int, key: str = "k", value: bytes | None = b"v", **headers: bytes) -> Record:
    return Record("a.facts", 1, offset, key, value, headers, 1_700_000_000_000 + offset)


# -- lines ------------------------------------------------------------------------------------------------------------


@given(st.lists(RECORDS, max_size=4, unique_by=lambda each: each.offset))
def test_what_is_read_is_what_was_written(records: list[Record]) -> None:
    assert read(lines(log(records))) == log(records)


@given(st.data())
def test_every_changed_byte_is_found_in_its_line(data: st.DataObject) -> None:
    whole = lines(log([record(1), record(2, value=b"\xff")]))
    place = data.draw(st.integers(0, len(whole) - 2))
    spoiled = bytearray(whole)
    spoiled[place] ^= data.draw(st.integers(1, 255))

    with pytest.raises(BadInput) as caught:
        read(bytes(spoiled))

    line = whole[:place].count(b"\n") + 1
    said = str(caught.value)
    assert said.startswith(f"log:{line}:") or (whole[place : place + 1] == b"\n" and said.startswith("log:"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda all: all[:-1], r"log:12: the log is cut here: expected more lines"),
        (
            lambda all: [*all[:2], *all[3:]],
            r"log:3: the line is damaged, or a line before it is missing, twice or else",
        ),
        (lambda all: [*all[:3], *all[2:]], r"log:4: the line is damaged, or a line before it"),
        (lambda all: [*all, all[-1]], r"log:12: something follows behind the tail"),
        (lambda _: [], r"log:1: the file is empty: expected an exported log"),
        (
            lambda _: [b"not a log\n"],
            r'log:1: expected a line of an exported log, beginning with {"crc":"…", not b.not a',
        ),
        (lambda all: [*all[:1], b"x" * 5_000_000], r"log:2: the line is longer than 4194304 bytes"),
    ],
)
def test_a_file_that_is_cut_or_mixed_up_is_refused_with_its_line(spoil: object, said: str) -> None:
    whole = lines(log([record(1)])).splitlines(keepends=True)
    with pytest.raises(BadInput, match=said):
        read(b"".join(spoil(whole)))  # type: ignore[operator]


def told(facts: Topic = FACTS, groups: tuple[str, ...] = ("readers",)) -> Head:
    return Head("now", "sqlite", (facts,), groups)


ONE = Topic("a.facts", 1)
FIRST = TopicPartition("a.facts", 0)
EMPTY = (Begin(FIRST), End(FIRST, 0, 0))


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([Tail(0)], "log:1: .* belongs in the first line"),
        ([told(ONE), told(ONE)], "log:2: .* belongs in the first line"),
        ([told(Topic("../etc", 1))], r"log:1: .* '\.\./etc' is no name"),
        ([told(ONE, ("\x1b[2J",))], r"log:1: .* '\\x1b\[2J' is no name"),
        ([told(Topic("a.facts", 10**9))], "log:1: .* has 1000000000 partitions: expected 1 to 1000"),
        ([told(ONE), Begin(AT)], "log:2: .* 'a.facts'/1 is not in the head"),
        ([told(ONE), *EMPTY, Begin(FIRST)], "log:4: .* or was there before"),
        ([told(FACTS), Begin(FIRST), Begin(AT)], "log:3: .* 'a.facts'/0 has not ended"),
        ([told(FACTS), Begin(AT), record(4), record(4)], "log:4: .* offset 4 comes where 5 is the least"),
        ([told(FACTS), Begin(AT), record(4), End(AT, 2, 9)], "log:4: .* 2 records are said, 1 are here"),
        ([told(FACTS), Begin(AT), record(4), End(AT, 1, 4)], "log:4: .* the next offset cannot be 4"),
        ([told(FACTS), Begin(AT), End(FIRST, 0, 0)], "log:3: .* 'a.facts'/0 ends where 'a.facts'/1 is open"),
        ([told(ONE), *EMPTY, Committed("others", FIRST, 0)], "log:4: .* the group is not in the head"),
        ([told(ONE), *EMPTY, Committed("readers", AT, 0)], "log:4: .* 'a.facts'/1 is not in the head"),
        ([told(ONE), *EMPTY, Committed("readers", FIRST, -1)], "log:4: .* the next offset cannot be -1"),
        ([told(FACTS), *EMPTY, Tail(0)], "log:4: .* 'a.facts'/1 is missing"),
        ([told(ONE), *EMPTY, Tail(3)], "log:4: .* 3 records are said, 0 are here"),
    ],
)
def test_a_file_with_right_checksums_and_wrong_contents_is_refused(items: list[Item], said: str) -> None:
    """A partition that was not ended lost its records without a word; others were errors of ours, or never ended."""
    with pytest.raises(BadInput, match=said):
        read(lines(items))


def test_a_newer_format_says_so() -> None:
    newer = lines([Head("now", "sqlite", (), (), format=2), Tail(0)])
    with pytest.raises(BadInput, match=r"log:1: .* the log has format 2, this version reads 1: upgrade Towline"):
        read(newer)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_file_is_packed_by_its_name_private_and_never_written_over(tmp_path: Path, suffix: str) -> None:
    name = str(tmp_path / f"log.jsonl{suffix}")
    with opened(name, "xb") as file:
        file.write(lines(log([record(1)])))

    with opened(name, "rb") as file:
        assert list(read_lines(file, name)) == log([record(1)])
    assert Path(name).stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadInput, match="is there already"), opened(name, "xb"):
        pass
    if suffix:
        Path(name).write_bytes(Path(name).read_bytes()[:-30])
        with pytest.raises(BadInput, match="is cut"), opened(name, "rb") as file:
            list(read_lines(file, name))


def test_what_cannot_be_packed_here_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(BadInput, match=r"\.zst is not known here: expected \.gz, \.xz"),
        opened(str(tmp_path / "log.zst"), "xb"),
    ):
        pass
    with pytest.raises(BadInput, match="No such file"), opened(str(tmp_path / "none"), "rb"):
        pass


# -- offsets ----------------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 60), max_size=30), st.integers(0, 70))
def test_a_new_next_offset_has_the_same_records_before_it(old: set[int], next_: int) -> None:
    kept = sorted(old)
    offsets = Offsets()
    offsets.begin(AT)
    for new, each in enumerate(kept):
        offsets.add(AT, each, new)

    assert offsets.next_of(AT, next_) == sum(each < next_ for each in kept)
    assert offsets.record_of(AT, next_) == (kept.index(next_) if next_ in old else None)


def test_a_log_that_only_lost_its_front_costs_one_run() -> None:
    offsets = Offsets()
    offsets.begin(AT)
    for new in range(10_000):
        offsets.add(AT, new + 500, new)

    assert offsets._runs == {AT: [(500, 10_500, 0)]}


# -- what records say of offsets --------------------------------------------------------------------------------------


def moved(*records: Record) -> list[NewRecord | None]:
    """In a log where offset 10 of every partition of a.facts has become 0."""
    offsets = Offsets()
    for partition in range(2):
        offsets.begin(TopicPartition("a.facts", partition))
        for new in range(10):
            offsets.add(TopicPartition("a.facts", partition), new + 10, new)
    places = Places()
    return [places(each, offsets) for each in records]


def test_a_cursor_says_its_positions_anew_and_keeps_everything_else() -> None:
    cursor = Cursor(positions={"a.facts": 14, "gone": 3}, seen={"way": 7}, epoch="e", sent=2, recent=("id",))
    row = Record("b.state", 1, 40, f"key{SEPARATOR}cursor", cursor.model_dump_json().encode(), {}, 5)

    (new,) = moved(row)

    assert new is not None
    assert Cursor.model_validate_json(new.value or b"") == cursor.model_copy(update={"positions": {"a.facts": 4}})
    assert (new.key, new.partition, new.timestamp_ms) == (row.key, 1, 5)


def test_a_cursor_that_cannot_be_read_is_named() -> None:
    with pytest.raises(BadInput, match=r"the record 'key.x1fcursor' at b\.state/0/3 cannot be read"):
        moved(Record("b.state", 0, 3, f"key{SEPARATOR}cursor", b"{", {}, 0))


@pytest.mark.parametrize(
    ("origin", "said"),
    [("a.facts/1/12", "a.facts/1/2"), ("a.facts/1/9", "a.facts/1/gone"), ("other/1/9", "other/1/9"), ("?", "?")],
)
def test_a_dead_letter_names_where_its_record_is_now(origin: str, said: str) -> None:
    headers = {ORIGIN: origin.encode(), ID: b"letter"}
    new, foreign = moved(
        Record("b.dead", 0, 3, "key", b"\xff", headers, 0), Record("a.facts", 0, 12, "key", b"", headers, 0)
    )

    assert new is not None
    assert foreign is not None
    assert (new.headers, new.value) == ({ORIGIN: said.encode(), ID: b"letter"}, b"\xff")
    assert foreign.headers == headers, "what a record of another topic carries is its own"


def test_a_waiting_request_to_replay_begins_at_the_first_letter() -> None:
    asked = ReplayRequested(by="operator", since=900)
    new = request("notifier", "key", asked, cause="c", now=datetime(2026, 1, 1, tzinfo=UTC))
    (after,) = moved(Record(new.topic, 0, 4, new.key, new.value, new.headers, 0))

    assert after is not None
    assert b'"since":0' in (after.value or b"")
    assert after.headers == new.headers


def test_what_a_zombie_wrote_into_a_state_partition_does_not_move() -> None:
    """It never counts, and a bus that compacts at once would keep it instead of what does."""

    def row(offset: int, generation: int, value: bytes) -> Record:
        return Record("b.state", 0, offset, f"key{SEPARATOR}parked", value, ownership.headers(generation), 0)

    claim = ownership.claim_record("b.state", 0, ownership.Claim(5, "token", "1"))
    claimed = Record("b.state", 0, 1, claim.key, claim.value, claim.headers, 0)
    found = moved(row(0, 4, b"old"), claimed, row(2, 5, b"owner's"), row(3, 4, b"zombie's"), row(4, 5, b"last"))

    assert [None if each is None else each.value for each in found] == [b"old", claim.value, b"owner's", None, b"last"]
