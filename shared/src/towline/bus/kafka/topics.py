"""Making topics and checking those that exist: what the cluster must answer, the order in which it is asked.

What Towline relies on is written down in `wanted`; here everything wrong is gathered before anything is said.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from towline.bus.kafka import wanted
from towline.bus.kafka.connection import Connection
from towline.bus.kafka.wanted import Found, Problem, Replication
from towline.bus.port import Topic
from towline.errors import Permanent

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = wanted.MAX_BATCH_BYTES
_SEEN_EVERY_S = 0.02


class WrongTopics(Permanent):
    """What stands in the way, and the commands that mend it, for everything at once."""

    def __init__(self, where: str, problems: Sequence[Problem]) -> None:
        count = "1 thing is" if len(problems) == 1 else f"{len(problems)} things are"
        lines = [line for problem in problems for line in problem.lines(where)]
        super().__init__("\n".join([f"{count} wrong with the topics on {where}:", *lines]))
        self.problems = tuple(problems)


@dataclass(slots=True)
class Cluster:
    """What the cluster has now. `settings` holds only topics that may be described."""

    brokers: int
    partitions: dict[str, list[tuple[int, int]]]
    """Topic → leader (below 0: none now) and replicas of each partition."""
    settings: dict[str, dict[str, str]] = field(default_factory=dict)

    def found(self, topic: str) -> Found | None:
        if topic not in self.partitions:
            return None
        replicas = min((count for _, count in self.partitions[topic]), default=0)
        return Found(len(self.partitions[topic]), replicas, self.settings.get(topic))

    def led(self, topic: Topic) -> bool:
        return sum(leader >= 0 for leader, _ in self.partitions.get(topic.name, [])) >= topic.partitions


async def describe(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Each topic with its number of partitions. Never creates one."""
    return {name: len(partitions) for name, partitions in (await _partitions(admin)).items()}


async def check(admin: AIOKafkaAdminClient, connection: Connection, topics: Sequence[Topic]) -> list[Problem]:
    """Everything that is not as wanted, missing topics included; changes nothing."""
    cluster = await _look(admin, topics)
    replication = _replication(connection, cluster)
    return [problem for topic in topics for problem in wanted.compare(topic, cluster.found(topic.name), replication)]


async def ensure(admin: AIOKafkaAdminClient, connection: Connection, topics: Sequence[Topic]) -> dict[str, int]:
    """Create what is missing, wait until every partition has a leader, check all; returns what `describe` does.

    Raises WrongTopics with all problems. What merely lasts less than it could (a factor of replication) is a warning.
    """
    cluster = await _look(admin, ())
    problems: list[Problem] = []
    if missing := [topic for topic in topics if topic.name not in cluster.partitions]:
        problems = await _create(admin, missing, _replication(connection, cluster))
        made = [topic for topic in missing if topic.name not in {problem.topic for problem in problems}]
        await _when_led(admin, made)
    problems += [each for each in await check(admin, connection, topics) if each.setting != wanted.MISSING]
    for problem in problems:
        if not problem.stops:
            log.warning("a topic lasts less than it could", extra={"problem": problem.sentence})
    order = {topic.name: number for number, topic in enumerate(topics)}
    if stopping := sorted((each for each in problems if each.stops), key=lambda each: order[each.topic]):
        raise WrongTopics(connection.where, stopping)
    return await describe(admin)


async def _look(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> Cluster:
    brokers = len((await admin.describe_cluster())["brokers"])
    cluster = Cluster(brokers, await _partitions(admin))
    names = [topic.name for topic in topics if topic.name in cluster.partitions]
    if names:
        cluster.settings = await _settings(admin, names)
    return cluster


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, list[tuple[int, int]]]:
    return {
        topic["topic"]: [(each["leader"], len(each["replicas"])) for each in topic["partitions"]]
        for topic in await admin.describe_topics()
        if topic["error_code"] == 0 and not topic["is_internal"]
    }


async def _settings(admin: AIOKafkaAdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Of topics that we may describe: without that permission they are taken as they are."""
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
        for code, message, _kind, name, entries in response.resources:
            error = errors.for_code(code)
            if error is errors.TopicAuthorizationFailedError:
                log.warning("a topic's settings may not be seen, so they are not checked", extra={"topic": name})
            elif code:
                raise error(f"topic {name} cannot be checked: {message}")
            else:
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _replication(connection: Connection, cluster: Cluster) -> Replication:
    factor = connection.replication or min(3, cluster.brokers)
    insync = connection.min_insync or (2 if factor >= 3 else 1)
    return Replication(factor, insync, connection.replication is not None, connection.min_insync is not None)


async def _create(admin: AIOKafkaAdminClient, missing: Sequence[Topic], replication: Replication) -> list[Problem]:
    """Make them; returns one problem for each that could not be made."""
    response = await admin.create_topics(
        [
            NewTopic(
                topic.name,
                topic.partitions,
                replication.factor,
                topic_configs=wanted.settings(topic, replication),
            )
            for topic in missing
        ]
    )
    topics: Mapping[str, Topic] = {topic.name: topic for topic in missing}
    problems = []
    for name, code, message in response.topic_errors:
        error = errors.for_code(code)
        if error in (errors.NoError, errors.TopicAlreadyExistsError):
            continue
        if error.retriable:
            raise error(f"topic {name} cannot be made now: {message}")
        reason = "this user may neither see nor make it" if error in _NOT_ALLOWED else message or error.__name__
        problems.append(wanted.missing(topics[name], replication, reason))
    return problems


_NOT_ALLOWED = (errors.TopicAuthorizationFailedError, errors.ClusterAuthorizationFailedError)


async def _when_led(admin: AIOKafkaAdminClient, topics: Sequence[Topic]) -> None:
    while topics:
        cluster = Cluster(0, await _partitions(admin))
        if all(cluster.led(topic) for topic in topics):
            return
        await asyncio.sleep(_SEEN_EVERY_S)
