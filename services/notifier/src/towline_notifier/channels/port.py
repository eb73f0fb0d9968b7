"""What a channel is: it takes one notice and says by its error what to do next."""

from __future__ import annotations

from typing import Protocol

from towline_notifier.messages import Deliver


class Channel(Protocol):
    async def send(self, deliver: Deliver, tries: int) -> None:
        """Returns when the receiver has taken the notice; `tries` counts from 1.

        Raises Retryable (too many, `after` seconds), DependencyDown (does not answer) or Permanent (will not take it).
        No message holds the URL, a header or a body.
        """
        ...
