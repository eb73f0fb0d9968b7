"""What the client may say in our log: no login, and in an outage each thing once a minute, not ten times a second.

That the cluster is away is said by whoever waits for it, in one sentence; the client's lines are details to it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

AGAIN_S = 60.0
LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.producer",
    "aiokafka.producer.sender",
)
"""Each by its name: a filter is not inherited."""


class Calm(logging.Filter):
    """Drops repetitions by the line of the client that says them, and debug lines of connections: a login is one."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._said: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return record.name != "aiokafka.conn"
        if record.levelno < logging.WARNING:
            return True
        line, now = (record.pathname, record.lineno), self._now()
        if now - self._said.get(line, float("-inf")) < AGAIN_S:
            return False
        self._said[line] = now
        return True


_CALM = Calm()


def calm() -> None:
    """From now on, in this process."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_CALM)
