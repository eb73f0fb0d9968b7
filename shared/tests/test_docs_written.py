"""Documents that are made from code: they are checked for drift, and what they say of an event is true of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from towline import flow
from towline.docs import asyncapi
from towline.docs.__main__ import SCHEMAS, documents
from towline.docs.examples import EXAMPLE_OF, events_on_map
from towline.docs.json_schema import schema_of
from towline.docs.wire import data_of, headers_of, record_of
from towline.docs.written import filled, run, stale, write
from towline.errors import BadInput
from towline.events import Event

EVENTS = events_on_map()
SKELETON = "\n".join(
    f"<!-- generated: {name} -->\n<!-- end: {name} -->" for name in ("services", "streams", "waits", "topics")
)


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "flow.md").write_text(f"# The flow\n\n{SKELETON}\n\nBy hand.\n")
    (tmp_path / "operate").mkdir()
    (tmp_path / "operate/lag.md").write_text("# Lag\n\n<!-- generated: metrics -->\n<!-- end: metrics -->\n")
    write(tmp_path, documents(tmp_path), (SCHEMAS,))
    return tmp_path


def check(docs: Path) -> int:
    return run(["--check", str(docs)], "python -m towline.docs", documents, (SCHEMAS,))


def test_what_was_written_is_not_stale(docs: Path) -> None:
    assert check(docs) == 0
    assert "By hand." in (docs / "flow.md").read_text()


@pytest.mark.parametrize("name", ["events.md", "asyncapi.yaml", "flow.md", "operate/lag.md", "towline-yaml.md"])
def test_a_document_that_differs_is_named_with_the_command_that_mends_it(
    docs: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (docs / name).read_text()
    (docs / name).write_text(
        text.replace("towline.changes", "towline.other").replace("version", "wersion").replace("gauge", "gouge")
    )
    assert check(docs) == 1
    said = capsys.readouterr().err
    assert said == f"{docs / name} differs from what the code says; run: python -m towline.docs\n"


def test_a_missing_schema_and_one_of_no_event_are_named(docs: Path) -> None:
    first = f"{SCHEMAS}/{EVENTS[0].type}.json"
    (docs / first).unlink()
    (docs / SCHEMAS / "of-no-event.json").write_text("{}")
    assert stale(docs, documents(docs), (SCHEMAS,)) == [first, f"{SCHEMAS}/of-no-event.json"]
    write(docs, documents(docs), (SCHEMAS,))
    assert check(docs) == 0


def test_a_page_without_its_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "flow.md"
    page.write_text("# The flow\n")
    with pytest.raises(BadInput, match=re.escape("flow.md: expected the markers <!-- generated: waits -->")):
        filled(page, {"waits": "a table"})


def test_an_argument_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--chekc"], "python -m towline.docs", documents) == 2
    assert "usage: python -m towline.docs" in capsys.readouterr().err


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_an_example_is_valid_against_the_schema_of_its_event(event: type[Event]) -> None:
    schema = schema_of(event)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(data_of(record_of(EXAMPLE_OF[event])))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_a_schema_refuses_an_event_without_what_it_requires(event: type[Event]) -> None:
    data = data_of(record_of(EXAMPLE_OF[event]))
    required = next(name for name, field in event.model_fields.items() if field.is_required())
    del data["customData"][required]
    with pytest.raises(jsonschema.ValidationError, match=required):
        jsonschema.Draft202012Validator(schema_of(event)).validate(data)


def test_a_schema_lets_through_fields_and_words_of_a_later_version() -> None:
    for event in EVENTS:
        data = data_of(record_of(EXAMPLE_OF[event]))
        data["customData"]["of_the_future"] = 1
        for word in ("purpose", "outcome", "verdict", "health", "severity"):
            if word in data["customData"]:
                data["customData"][word] = "of-the-future"
        jsonschema.Draft202012Validator(schema_of(event)).validate(data)


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(asyncapi.document())
    return document


def test_asyncapi_names_every_topic_and_every_event(api: dict[str, Any]) -> None:
    assert {channel["address"] for channel in api["channels"].values()} == {s.topic for s in flow.STREAMS}
    assert {message["name"] for message in api["components"]["messages"].values()} == {e.type for e in EVENTS}


def test_asyncapi_has_an_operation_for_every_producer_and_consumer(api: dict[str, Any]) -> None:
    receives = {name for name, operation in api["operations"].items() if operation["action"] == "receive"}
    assert receives == {
        f"{service}-receives-{stream.topic.removeprefix('towline.')}"
        for stream in flow.STREAMS
        for service in flow.SERVICES
        if any(service in to for to in stream.events.values())
    }
    assert len(api["operations"]) == len(receives) + len(flow.STREAMS)


def test_every_reference_in_asyncapi_leads_somewhere(api: dict[str, Any], docs: Path) -> None:
    for reference in references(api):
        if reference.startswith("./"):
            assert json.loads((docs / reference).read_text())["title"]
            continue
        found: Any = api
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [each for inner in value.values() for each in references(inner)]
    return [each for inner in value for each in references(inner)] if isinstance(value, list) else []


def test_the_headers_of_every_example_are_valid_against_asyncapi(api: dict[str, Any]) -> None:
    headers = api["components"]["messageTraits"]["cloudEvent"]["headers"]
    for event in EVENTS:
        written = headers_of(record_of(EXAMPLE_OF[event]))
        jsonschema.Draft202012Validator(headers).validate(written)
        assert set(written) <= set(headers["properties"])
