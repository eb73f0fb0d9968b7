"""What is wrong with a topic, and what is typed against it. The real cluster's answers are in tests/kafka."""

from __future__ import annotations

from datetime import timedelta

import pytest

from towline import flow
from towline.bus.kafka.wanted import MAX_BATCH_BYTES, Found, Replication, compare, settings
from towline.bus.port import Cleanup, Topic

THREE = Replication(3, 2)
STATE = Topic("towline.ci-runner.state", 12, Cleanup.COMPACT)
INBOX = Topic("towline.ci-runner.inbox", 12, retention=timedelta(days=7))


def as_made(topic: Topic, changed: dict[str, str] | None = None, replication: Replication = THREE) -> Found:
    return Found(topic.partitions, replication.factor, settings(topic, replication) | (changed or {}))


@pytest.mark.parametrize("topic", flow.topics(), ids=lambda topic: topic.name)
def test_a_topic_as_towline_makes_it_has_no_problem(topic: Topic) -> None:
    assert compare(topic, as_made(topic), THREE) == []


@pytest.mark.parametrize(
    ("topic", "setting", "value"),
    [
        (INBOX, "cleanup.policy", "compact"),
        (INBOX, "retention.ms", "1000"),
        (INBOX, "retention.bytes", "1000000"),
        (STATE, "cleanup.policy", "compact,delete"),
        (STATE, "min.compaction.lag.ms", "0"),
        (STATE, "delete.retention.ms", "0"),
        (STATE, "max.message.bytes", "1048588"),
        (INBOX, "message.timestamp.type", "LogAppendTime"),
        (INBOX, "unclean.leader.election.enable", "true"),
        (INBOX, "min.insync.replicas", "4"),
    ],
)
def test_a_setting_that_would_lose_or_misread_records_stops_and_is_mended_by_one_command(
    topic: Topic, setting: str, value: str
) -> None:
    (problem,) = compare(topic, as_made(topic, {setting: value}), THREE)

    assert problem.stops
    assert f"topic {topic.name} exists with {setting} {value}, " in problem.sentence
    mended = problem.mend.rpartition("--add-config ")[2].partition("=")
    assert mended[0] == setting
    assert compare(topic, as_made(topic, {setting: mended[2]}), THREE) == []


def test_fewer_copies_than_the_cluster_could_hold_warn_and_than_were_asked_for_stop() -> None:
    found = as_made(INBOX, replication=Replication(1, 1))

    assert [(each.setting, each.stops) for each in compare(INBOX, found, THREE)] == [("replication factor", False)]
    asked = compare(INBOX, found, Replication(3, 2, factor_asked=True, insync_asked=True))
    assert [(each.setting, each.stops) for each in asked] == [("replication factor", True)]
    too_few = as_made(INBOX, {"min.insync.replicas": "1"})
    assert [(each.setting, each.stops) for each in compare(INBOX, too_few, THREE)] == [("min.insync.replicas", False)]


def test_all_that_is_wrong_is_said_at_once() -> None:
    found = Found(6, 1, settings(INBOX, THREE) | {"retention.ms": "1", "max.message.bytes": "1"})

    assert [problem.setting for problem in compare(INBOX, found, THREE)] == [
        "partitions",
        "replication factor",
        "min.insync.replicas",
        "retention.ms",
        "max.message.bytes",
    ]


def test_settings_that_may_not_be_seen_are_taken_as_they_are() -> None:
    assert compare(INBOX, Found(12, 3, None), THREE) == []


def test_a_missing_topic_is_made_by_the_command_as_towline_would() -> None:
    (problem,) = compare(STATE, None, THREE)

    assert problem.lines("k1:9092,k2:9092") == [
        "  topic towline.ci-runner.state is missing: there is none",
        "      kafka-topics.sh --bootstrap-server k1:9092,k2:9092 --create --topic towline.ci-runner.state "
        "--partitions 12 --replication-factor 3 --config cleanup.policy=compact "
        "--config message.timestamp.type=CreateTime --config unclean.leader.election.enable=false "
        "--config delete.retention.ms=86400000 --config min.cleanable.dirty.ratio=0.1 "
        "--config min.compaction.lag.ms=60000 --config segment.bytes=16777216 --config segment.ms=3600000 "
        f"--config max.message.bytes={MAX_BATCH_BYTES} --config min.insync.replicas=2",
    ]
