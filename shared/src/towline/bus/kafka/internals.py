"""With `readable` the only place that reaches into the client's inside: to end what `stop` waits for, and for its id.

`stop` of a producer delivers what it holds, for ever if the cluster is away: a batch whose failure was told already
would be written late, behind the one that replaced it. `stop` of a consumer may hang on a broker that is silent.
A test holds the names used here to the installed client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka import client as aiokafka_client
from aiokafka.protocol.metadata import MetadataRequest

_CONSUMER_S = 3.0
_PRODUCER_S = 1.0


def make_no_topics() -> None:
    """From now on, in this process: to ask about a topic does not make it.

    The client lets the broker do that, and has no setting for it: a topic that was deleted under a running service was
    back at once with the broker's number of partitions and settings, so keys went astray and no service would start.
    """
    aiokafka_client.MetadataRequest = partial(MetadataRequest, allow_auto_topic_creation=False)


def member_id(client: AIOKafkaConsumer) -> str:
    """What the group's coordinator calls it; empty while it is no member. Nothing else says it."""
    return str(client._coordinator.member_id) if client._coordinator is not None else ""


async def end_consumer(client: AIOKafkaConsumer) -> None:
    await _ended(client.stop(), _CONSUMER_S)
    await _ended(client._client.close(), _CONSUMER_S)


async def end_producer(producer: AIOKafkaProducer) -> None:
    """Without the flush; whoever still waits on it gets an error.

    Its sender ends with whatever it stumbles over, such as a KeyError for a batch that it would try again and that has
    failed here: that is no answer to the caller, whom its own error concerns.
    """
    sending = producer._sender.sender_task
    if sending is not None:
        sending.remove_done_callback(producer._sender._fail_all)  # here it is done, and there for transactions alone
    producer._message_accumulator.fail_all(errors.KafkaConnectionError("the producer was replaced"))
    await _ended(producer._sender.close(), _PRODUCER_S)
    await _ended(producer.stop(), _PRODUCER_S)
    await _ended(producer.client.close(), _PRODUCER_S)


async def _ended(ending: Coroutine[Any, Any, None], seconds: float) -> None:
    """Let it end, in a task of its own: the client cancels parts of itself and lets the CancelledError out, which in
    the caller's task would look like the caller's own end. What else it ends with is nobody's."""
    task = asyncio.ensure_future(ending)
    await asyncio.wait((task,), timeout=seconds)
    if not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=seconds)
    if task.done() and not task.cancelled():
        task.exception()
