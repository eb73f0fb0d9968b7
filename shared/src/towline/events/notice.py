"""Stage 6: somebody is told. Produced and consumed by notifier alone, keyed by channel."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from towline.events.base import Event, Word


class Severity(Word):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    UNKNOWN = "unknown"


class NoticeRendered(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-notice.rendered.0.1.0"
    channel: str = Field(description="Name of a configured channel.")
    group: str = Field(description="What the notice is about: a change or an application.")
    kind: str = Field("", description="What it tells of, as routes name it: `change-merged`, `incident-detected`, …")
    severity: Severity
    title: str
    text: str = ""
    facts: dict[str, str] = Field(default_factory=dict, description="Short labelled values: change, revision, image.")
    about: str = Field(description="Id of the event that this notice tells of.")
    change: str | None = None

    @property
    def subject(self) -> str:
        return f"{self.channel}/{self.group}"
