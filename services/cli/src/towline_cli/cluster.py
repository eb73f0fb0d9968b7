"""`towline bus check` and `towline bus acls`: what a Kafka must be like, said before a service starts on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from towline import flow
from towline.errors import BadInput, redact
from towline_cli import kafka_access

if TYPE_CHECKING:
    from towline.bus.settings import BusSettings


async def check(settings: BusSettings) -> int:
    """Prints all that is wrong with the topics, and what mends it; returns how many things stop a service."""
    from towline.bus.kafka import KafkaBus

    servers = servers_of(settings)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    bus = await KafkaBus.open(settings.bus.removeprefix("kafka://"), settings.kafka)
    try:
        topics = flow.topics()
        problems = await bus.check(topics)
    finally:
        await bus.close()
    for problem in problems:
        sentence, mend = problem.lines(servers)
        typer.echo(f"{'wrong' if problem.stops else 'weak'}{sentence}")
        typer.echo(mend)
    right = len(topics) - len({problem.topic for problem in problems})
    typer.echo(f"{right} of {len(topics)} topics are as they should be")
    return sum(problem.stops for problem in problems)


def acls(settings: BusSettings, services: Sequence[str], principal: str, *, creates: bool) -> None:
    for line in kafka_access.lines(services or flow.SERVICES, principal, creates=creates, servers=servers_of(settings)):
        typer.echo(line)


def servers_of(settings: BusSettings) -> str:
    """Raises BadInput for another bus."""
    if not settings.bus.startswith("kafka://"):
        raise BadInput(f"the bus is {redact(settings.bus)}: this is about a kafka:// bus; name one with --bus")
    from towline.bus.kafka.connection import Connection

    return Connection.parse(settings.bus.removeprefix("kafka://")).where
