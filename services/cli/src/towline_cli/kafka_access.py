"""Which permissions each service needs on a Kafka, from the map of events. Pure.

Rule that must hold: a topic is written by its one producer alone; an inbox, a state and dead letters by their service,
and the inbox and the dead letters by people who replay.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from towline import flow

PREFIX = "towline."
_SERVERS = "<servers>"


@dataclass(frozen=True, slots=True)
class Right:
    """`name` is whole, or what names begin with where `prefixed`."""

    resource: Literal["topic", "group"]
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False


def rights_of(service: str, *, creates: bool = True) -> list[Right]:
    """`creates`: it makes missing topics itself."""
    sees = ("Describe", "DescribeConfigs", *(("Create",) if creates else ()))
    own = (flow.inbox_of(service), flow.state_of(service), flow.dead_of(service))
    written = [stream.topic for stream in flow.STREAMS if stream.producer == service]
    read = flow.topics_consumed_by(service)
    found = [Right("topic", PREFIX, sees, prefixed=True)]
    for topic in sorted({*own, *written, *read}):
        may_read, may_write = topic in (*own, *read), topic in (*own, *written)
        operations = (*(("Read",) if may_read else ()), *(("Write",) if may_write else ()))
        found.append(Right("topic", topic, operations))
    return [*found, Right("group", service, ("Read",))]


def rights_to_look() -> list[Right]:
    """`towline status`, `trace`, `dead list` and `bus check`."""
    return [Right("topic", PREFIX, ("Read", "Describe", "DescribeConfigs"), prefixed=True)]


def rights_to_replay(service: str) -> list[Right]:
    """`towline dead replay` and `drop`, beside looking."""
    return [Right("topic", topic, ("Write",)) for topic in (flow.inbox_of(service), flow.dead_of(service))]


def commands(principal: str, rights: Iterable[Right], servers: str = _SERVERS) -> Iterator[str]:
    """What an administrator types, one line for each right."""
    for right in rights:
        operations = " ".join(f"--operation {each}" for each in right.operations)
        pattern = " --resource-pattern-type prefixed" if right.prefixed else ""
        yield (
            f"kafka-acls.sh --bootstrap-server {servers} --add --allow-principal {shlex.quote(principal)} "
            f"{operations} --{right.resource} {right.name}{pattern}"
        )


def lines(services: Sequence[str], principal: str, *, creates: bool, servers: str) -> Iterator[str]:
    """For each service a comment and its commands; `<service>` in `principal` is its name."""
    for service in services:
        yield f"# {service}"
        yield from commands(principal.replace("<service>", service), rights_of(service, creates=creates), servers)
    yield "# whoever uses `towline status`, `trace`, `dead list` and `bus check`"
    person = principal.replace("<service>", "operator")
    yield from commands(person, rights_to_look(), servers)
    yield "# and `dead replay` and `dead drop`"
    for service in services:
        yield from commands(person, rights_to_replay(service), servers)
