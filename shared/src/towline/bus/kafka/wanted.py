"""What a topic must be like on a Kafka, what is wrong with one that is not, and the command that mends it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from towline.bus.port import COMPACTION_LAG, MAX_APPEND_BYTES, Cleanup, Topic

MAX_BATCH_BYTES = MAX_APPEND_BYTES + 512 * 1024
"""An append travels as one batch; the rest is room for framing."""
MISSING = "topic"
_DAY_MS = 24 * 3600 * 1000
_LAG_MS = int(COMPACTION_LAG.total_seconds() * 1000)
"""How long a superseded row of state stays readable at least: a new owner finds what a zombie has written over."""


@dataclass(frozen=True, slots=True)
class Replication:
    """Wanted copies of each partition. What the bus's URL asks for must be; what follows the cluster's size should."""

    factor: int
    insync: int
    factor_asked: bool = False
    insync_asked: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A topic as it is; `settings` None where they may not be seen."""

    partitions: int
    replicas: int
    settings: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Problem:
    """`stops`: Towline would lose or misread something, and does not start."""

    topic: str
    setting: str
    sentence: str
    mend: str
    stops: bool = True

    def lines(self, servers: str) -> list[str]:
        """The sentence, and below it what to type."""
        return [f"  {self.sentence}", f"      {self.mend.replace(_SERVERS, servers)}"]


_SERVERS = "<servers>"
_TOPICS = f"kafka-topics.sh --bootstrap-server {_SERVERS}"
_CONFIGS = f"kafka-configs.sh --bootstrap-server {_SERVERS}"


def settings(topic: Topic, replication: Replication) -> dict[str, str]:
    """Everything that a new topic is made with."""
    return {
        **_exact(topic),
        **_tuning(topic),
        "max.message.bytes": str(MAX_BATCH_BYTES),
        "min.insync.replicas": str(replication.insync),
    }


def compare(topic: Topic, found: Found | None, replication: Replication) -> list[Problem]:
    """Everything wrong with it."""
    if found is None:
        return [missing(topic, replication, "there is none")]
    return [*_of_partitions(topic, found), *_of_copies(topic, found, replication), *_of_settings(topic, found)]


def missing(topic: Topic, replication: Replication, reason: str) -> Problem:
    """One that is not there and could not be made; its mend makes it as Towline would have."""
    configs = " ".join(f"--config {name}={value}" for name, value in settings(topic, replication).items())
    words = f"--partitions {topic.partitions} --replication-factor {replication.factor} {configs}"
    mend = f"{_TOPICS} --create --topic {shlex.quote(topic.name)} {words}"
    return Problem(topic.name, MISSING, f"topic {topic.name} is missing: {reason}", mend)


def _exact(topic: Topic) -> dict[str, str]:
    same = {
        "cleanup.policy": topic.cleanup.value,
        "message.timestamp.type": "CreateTime",
        "unclean.leader.election.enable": "false",
    }
    if topic.cleanup is Cleanup.DELETE:
        kept = -1 if topic.retention is None else int(topic.retention.total_seconds() * 1000)
        same |= {"retention.ms": str(kept), "retention.bytes": "-1"}
    return same


def _tuning(topic: Topic) -> dict[str, str]:
    """What a new topic gets beyond: state is loaded from its first offset, so it is compacted early."""
    if topic.cleanup is Cleanup.DELETE:
        return {}
    return {
        "delete.retention.ms": str(_DAY_MS),
        "min.cleanable.dirty.ratio": "0.1",
        "min.compaction.lag.ms": str(_LAG_MS),
        "segment.bytes": str(16 * 1024 * 1024),
        "segment.ms": str(3600 * 1000),
    }


def _of_partitions(topic: Topic, found: Found) -> Iterator[Problem]:
    if found.partitions != topic.partitions:
        yield Problem(
            topic.name,
            "partitions",
            f"topic {topic.name} exists with partitions {found.partitions}, wanted is {topic.partitions}",
            "# keys would move to other partitions: `towline bus export`, delete the topic, `towline bus import`",
        )


def _of_copies(topic: Topic, found: Found, replication: Replication) -> Iterator[Problem]:
    if found.replicas < replication.factor:
        yield Problem(
            topic.name,
            "replication factor",
            f"topic {topic.name} exists with replication factor {found.replicas}, wanted is {replication.factor}",
            f"kafka-reassign-partitions.sh --bootstrap-server {_SERVERS} --execute --reassignment-json-file "
            f"<{replication.factor} replicas for each partition of {topic.name}>",
            stops=replication.factor_asked,
        )
    if found.settings is None or "min.insync.replicas" not in found.settings:
        return
    insync = int(found.settings["min.insync.replicas"])
    if insync > found.replicas:
        said = f"topic {topic.name} exists with min.insync.replicas {insync}, more than its {found.replicas} replicas"
        yield _mended(topic, "min.insync.replicas", f"{said}: nothing can be written", str(found.replicas))
    elif insync < min(replication.insync, found.replicas):
        said = f"topic {topic.name} exists with min.insync.replicas {insync}, wanted is {replication.insync}"
        yield _mended(topic, "min.insync.replicas", said, str(replication.insync), stops=replication.insync_asked)


def _of_settings(topic: Topic, found: Found) -> Iterator[Problem]:
    if found.settings is None:
        return
    for name, value in _exact(topic).items():
        if (is_now := found.settings.get(name, value)) != value:
            said = f"topic {topic.name} exists with {name} {is_now}, wanted is {value}"
            yield _mended(topic, name, said, value)
    floors: dict[str, int] = {"max.message.bytes": MAX_BATCH_BYTES}
    if topic.cleanup is Cleanup.COMPACT:
        floors |= {"min.compaction.lag.ms": _LAG_MS, "delete.retention.ms": _LAG_MS}
    for name, least in floors.items():
        if int(is_now := found.settings.get(name, str(least))) < least:
            said = f"topic {topic.name} exists with {name} {is_now}, wanted is at least {least}"
            yield _mended(topic, name, said, str(settings(topic, Replication(1, 1))[name]))


def _mended(topic: Topic, name: str, said: str, value: str, *, stops: bool = True) -> Problem:
    words = f"--alter --entity-type topics --entity-name {shlex.quote(topic.name)} --add-config {name}={value}"
    return Problem(topic.name, name, said, f"{_CONFIGS} {words}", stops)
