"""Records of every released version can be read by this one.

`golden/<version>/<type>.json` holds one record of each event as that version wrote it. A golden is never changed; a
release adds a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from towline import flow
from towline.bus.port import Record
from towline.delivery import codec
from towline.docs.examples import EXAMPLES, events_on_map
from towline.events import EVENT_TYPES, Word

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("*/*.json"))
NAMES = [str(file.relative_to(GOLDEN)) for file in FILES]
A_WORD_OF_THE_FUTURE = "a-word-of-the-future"
MAPS = {"facts", "env", "args"}
"""Objects whose names are data: a later version adds no field there."""


def record_of(golden: dict[str, Any]) -> Record:
    headers = {name: value.encode() for name, value in golden["headers"].items()}
    return Record(golden["topic"], 0, 0, golden["key"], json.dumps(golden["value"]).encode(), headers, 0)


def words_in(value: BaseModel) -> Iterator[Word]:
    for name in type(value).model_fields:
        found = getattr(value, name)
        for each in found if isinstance(found, tuple) else (found,):
            if isinstance(each, Word):
                yield each
            elif isinstance(each, BaseModel):
                yield from words_in(each)


def with_more_fields(value: Any) -> Any:
    """The same, as a later version might write it: every object has a field that this version does not know."""
    if isinstance(value, dict):
        inner = {name: each if name in MAPS else with_more_fields(each) for name, each in value.items()}
        return {**inner, "of_the_future": [1, {"x": None}]}
    return [with_more_fields(each) for each in value] if isinstance(value, list) else value


def with_other_words(value: Any, model: type[BaseModel]) -> Any:
    """The same with every word of the event itself replaced by one that this version does not know."""
    return {name: A_WORD_OF_THE_FUTURE if _is_word(model, name) else each for name, each in value.items()}


def _is_word(model: type[BaseModel], name: str) -> bool:
    annotation = model.model_fields[name].annotation
    return isinstance(annotation, type) and issubclass(annotation, Word)


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_a_golden_record_is_read_as_it_was_written(file: Path) -> None:
    golden = json.loads(file.read_text())
    envelope = codec.decode(record_of(golden))
    assert type(envelope.event) is EVENT_TYPES[file.stem]
    written = envelope.event.model_dump(mode="json", exclude_none=True)
    kept = {name: written[name] for name in golden["value"]["customData"]}
    assert kept == golden["value"]["customData"]
    assert envelope.id == golden["headers"]["ce_id"]
    assert envelope.event.subject == golden["headers"]["ce_subject"]
    assert flow.stream_of(type(envelope.event)).key(envelope.event) == golden["key"]


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_fields_of_a_later_version_are_ignored(file: Path) -> None:
    golden = json.loads(file.read_text())
    known = codec.decode(record_of(golden))
    later = {**golden, "value": with_more_fields(golden["value"])}
    assert codec.decode(record_of(later)).event == known.event


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_words_of_a_later_version_are_read_as_unknown(file: Path) -> None:
    golden = json.loads(file.read_text())
    model = EVENT_TYPES[file.stem]
    golden["value"]["customData"] = with_other_words(golden["value"]["customData"], model)
    event = codec.decode(record_of(golden)).event
    words = [getattr(event, name) for name in model.model_fields if _is_word(model, name)]
    assert all(word.value == "unknown" for word in words)


def test_every_event_of_this_version_has_a_golden_record() -> None:
    newest = max(GOLDEN.iterdir())
    assert {file.stem for file in newest.glob("*.json")} == {event.type for event in events_on_map()}


def test_some_golden_records_hold_words() -> None:
    """Else the test of unknown words would prove nothing."""
    assert sum(1 for example in EXAMPLES for _ in words_in(example)) >= 15
