"""The events say what CDEvents 0.5.1 lets them say, where it has the word.

Source: the vocabulary and the schemas of CDEvents at tag v0.5.1. Its schemas close `context` and `subject.content`,
so a field too many is as wrong as one that is missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from towline.docs.examples import EXAMPLE_OF, events_on_map
from towline.docs.wire import data_of, headers_of, record_of
from towline.events import Event, Outcome


@dataclass(frozen=True)
class Content:
    required: frozenset[str] = frozenset()
    allowed: frozenset[str] = frozenset()


def content(required: str = "", optional: str = "") -> Content:
    return Content(frozenset(required.split()), frozenset(f"{required} {optional}".split()))


VOCABULARY = {
    "change.created.0.4.0": content("", "description repository"),
    "change.updated.0.3.0": content("", "repository"),
    "change.abandoned.0.3.0": content("", "repository"),
    "change.merged.0.3.0": content("", "repository"),
    "pipelinerun.queued.0.3.0": content("", "pipelineName uri"),
    "pipelinerun.started.0.3.0": content("", "pipelineName uri"),
    "pipelinerun.finished.0.3.0": content("", "pipelineName uri outcome errors"),
    "taskrun.started.0.3.0": content("", "taskName uri pipelineRun"),
    "taskrun.finished.0.3.0": content("", "taskName uri pipelineRun outcome errors"),
    "build.queued.0.3.0": content(),
    "build.started.0.3.0": content(),
    "build.finished.0.3.0": content("", "artifactId"),
    "artifact.packaged.0.3.0": content("change", "sbom"),
    "artifact.signed.0.3.0": content("signature"),
    "artifact.published.0.3.0": content("", "sbom user"),
    "service.deployed.0.3.0": content("environment artifactId"),
    "service.upgraded.0.3.0": content("environment artifactId"),
    "service.rolledback.0.3.0": content("environment artifactId"),
    "service.removed.0.3.0": content("", "environment"),
    "incident.detected.0.3.0": content("environment", "description service artifactId"),
    "incident.resolved.0.3.0": content("environment", "description service artifactId"),
}
CONTEXT = {"specversion", "id", "source", "type", "timestamp"}
STANDARD = [event for event in events_on_map() if event.type.startswith("dev.cdevents.")]
CUSTOM = [event for event in events_on_map() if event not in STANDARD]


@pytest.mark.parametrize("event", STANDARD, ids=lambda event: event.__name__)
def test_a_standard_event_is_a_word_of_cdevents_with_its_content(event: type[Event]) -> None:
    word = VOCABULARY[event.type.removeprefix("dev.cdevents.")]
    data = data_of(record_of(EXAMPLE_OF[event]))
    said = set(data["subject"]["content"])
    assert word.required <= said <= word.allowed
    assert set(data["subject"]) == {"id", "source", "content"}


@pytest.mark.parametrize("event", CUSTOM, ids=lambda event: event.__name__)
def test_an_own_event_is_named_as_cdevents_names_foreign_ones(event: type[Event]) -> None:
    assert re.fullmatch(r"dev\.cdeventsx\.towline-[a-z]+\.[a-z]+\.\d+\.\d+\.\d+", event.type)
    subject, predicate = event.type.removeprefix("dev.cdeventsx.towline-").split(".")[:2]
    assert not any(word.startswith(f"{subject}.{predicate}.") for word in VOCABULARY), "CDEvents has this word"


@pytest.mark.parametrize("event", events_on_map(), ids=lambda event: event.__name__)
def test_cloudevents_attributes_are_those_of_the_cdevent(event: type[Event]) -> None:
    record = record_of(EXAMPLE_OF[event])
    headers, data = headers_of(record), data_of(record)
    assert set(data["context"]) == CONTEXT
    assert data["context"]["specversion"] == "0.5.1"
    assert headers["ce_specversion"] == "1.0"
    assert headers["content-type"] == "application/json"
    for header, value in (
        ("ce_id", data["context"]["id"]),
        ("ce_source", data["context"]["source"]),
        ("ce_type", data["context"]["type"]),
        ("ce_time", data["context"]["timestamp"]),
        ("ce_subject", data["subject"]["id"]),
        ("ce_partitionkey", record.key),
    ):
        assert headers[header] == value


def test_an_artifact_is_named_by_its_package_url() -> None:
    published = next(event for event in STANDARD if event.__name__ == "ArtifactPublished")
    deployed = next(event for event in STANDARD if event.__name__ == "ServiceDeployed")
    purl = data_of(record_of(EXAMPLE_OF[published]))["subject"]["id"]
    assert purl == f"pkg:oci/cart@sha256:{'d1' * 32}?repository_url=registry.example%2Fshop%2Fcart"
    assert data_of(record_of(EXAMPLE_OF[deployed]))["subject"]["content"]["artifactId"] == purl


def test_outcomes_are_words_of_cdevents() -> None:
    assert {outcome.value for outcome in Outcome} - {"unknown"} == {"success", "failure", "error", "cancel"}


def test_an_event_that_could_not_be_read_back_is_refused_when_it_is_defined() -> None:
    with pytest.raises(TypeError, match="may be None and is required"):
        type("Lost", (Event,), {"__annotations__": {"paths": tuple[str, ...] | None}})
