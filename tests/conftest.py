"""Owns the real parts that tests share: one instance of the lab per run, its parts started when first asked for.

The rule that must hold: a run has an instance of its own name and takes it away at the end; what a killed run left is
taken away by the next one. Nothing is installed here: `make test` does that before, and a part that is not there
fails the tests that need it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from towline_cli import lab

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

PREFIX = "test-"
CLUSTER = frozenset({lab.Part.REGISTRY, lab.Part.KUBERNETES, lab.Part.BUILDER})


def _installed(parts: Collection[lab.Part]) -> None:
    missing = lab.plan(parts)
    if missing:
        pytest.fail("a part is not installed, `make test` does that: " + " ".join(missing), pytrace=False)


@pytest.fixture(scope="session")
def _parts() -> Iterator[lab.Instance]:
    lab.sweep(PREFIX)
    instance = lab.Instance(f"{PREFIX}{os.getpid()}")
    instance.start(())
    try:
        yield instance
    finally:
        instance.remove()


@pytest.fixture(scope="session")
def lab_instance(_parts: lab.Instance) -> lab.Instance:
    """Registry with the Debian base image in it, and a one-node Kubernetes that takes pods."""
    _installed(CLUSTER)
    _parts.add(CLUSTER)
    return _parts


@pytest.fixture(scope="session")
def kafka_address(_parts: lab.Instance) -> str:
    """host:port of a real Kafka; topics live as long as the run, so every test names its own."""
    _installed({lab.Part.KAFKA})
    _parts.add({lab.Part.KAFKA})
    return _parts.kafka


@pytest.fixture
def own_kafka() -> Iterator[str]:
    """A broker of its own without a topic: what a service runs on is named there as in production."""
    _installed({lab.Part.KAFKA})
    instance = lab.Instance(f"{PREFIX}{os.getpid()}-own")
    instance.start({lab.Part.KAFKA})
    try:
        yield instance.kafka
    finally:
        instance.remove()
