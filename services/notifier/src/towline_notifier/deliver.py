"""Runs the one effect: hands a notice to its channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from towline.delivery.model import EffectContext
from towline.errors import Permanent
from towline_notifier.channels.port import Channel
from towline_notifier.channels.post import Clock
from towline_notifier.messages import Deliver, NoticeDelivered


@dataclass(frozen=True, slots=True)
class Delivery:
    channels: Mapping[str, Channel]
    now: Clock

    async def __call__(self, deliver: Deliver, context: EffectContext) -> NoticeDelivered:
        """Raises what the channel raises, and Permanent when nobody wants the notice any more."""
        if self.now() >= deliver.expires:
            raise Permanent(f"channel {deliver.channel} did not take the notice while it was news")
        channel = self.channels.get(deliver.channel)
        if channel is None:
            raise Permanent(f"channel {deliver.channel} is no longer configured")
        await channel.send(deliver, context.tries)
        return NoticeDelivered(channel=deliver.channel, notice=deliver.id)
