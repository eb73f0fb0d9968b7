"""A Kafka of its own for logs that move: the product's topics are named there as in production."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from towline_cli import lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def empty_kafka() -> Iterator[str]:
    """host:port of a Kafka that has no topic yet."""
    missing = lab.plan({lab.Part.KAFKA})
    if missing:
        pytest.fail("Kafka is not installed, `make test` does that: " + " ".join(missing), pytrace=False)
    instance = lab.Instance(f"test-{os.getpid()}-move")
    instance.start({lab.Part.KAFKA})
    try:
        yield instance.kafka
    finally:
        instance.remove()
