"""What a lane of the notifier holds. One class serves both kinds of lanes; each uses its own fields.

Group lanes (`change:…`, `application:…`) remember what was told of a change or an application; channel lanes (a
channel's name) hold the queue to one channel. `told` and `open` mean the same in both, seen from either side.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field

from towline.delivery.model import State
from towline_notifier.messages import Deliver

FORGET = "forget"
"""The timer that drops a lane nobody needs any more."""
FORGET_AFTER = timedelta(days=7)


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Told(Entry):
    until: datetime = Field(description="After this the entry is not needed.")
    channels: tuple[str, ...] = ()


class OpenIncident(Entry):
    since: datetime = Field(description="When the last incident was detected that was told.")
    about: str = Field("", description="The revision that is not healthy.")


class NotifierState(State):
    told: dict[str, Told] = Field(
        default_factory=dict, description="Event id → who was told. In group lanes also `same <what is the same>`."
    )
    open: dict[str, OpenIncident] = Field(
        default_factory=dict, description="Told incidents that have no recovery: by channel, in channel lanes by group."
    )
    settled: datetime | None = Field(None, description="Group lanes: time of the last recovery, told or not.")
    title: str = Field("", description="Group lanes: title of the change.")
    author: str = Field("", description="Group lanes: author of the change.")
    waiting: dict[str, Deliver] = Field(
        default_factory=dict, description="Channel lanes: notices in order, by place; the one in flight included."
    )
    in_flight: str | None = Field(None, description="Channel lanes: place of the notice that is being delivered.")

    @property
    def needed(self) -> bool:
        return bool(self.told or self.open or self.waiting)


def still_told(told: dict[str, Told], now: datetime) -> dict[str, Told]:
    return {name: entry for name, entry in told.items() if entry.until >= now}
