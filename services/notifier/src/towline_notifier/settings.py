"""The `notifier:` section: channels, who hears of what, and how long news is news."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from towline.events import Severity
from towline_notifier.kind import Kind

ChannelName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChannelSettings(Strict):
    kind: Literal["webhook", "slack"] = Field(
        description="`webhook`: CloudEvents over HTTP. `slack`: incoming webhooks of Slack, or of what speaks like it."
    )
    url: SecretStr | None = Field(None, description="Where to post; it is a secret, so prefer url_file or url_env.")
    url_file: Path | None = Field(None, description="File that holds the URL; read again for every notice.")
    url_env: str | None = Field(None, description="Environment variable that holds the URL; not named TOWLINE_….")
    secret: SecretStr | None = Field(
        None, description="webhook: signing secret, `whsec_` and base64; prefer secret_file or secret_env."
    )
    secret_file: Path | None = Field(None, description="webhook: file that holds the signing secret.")
    secret_env: str | None = Field(None, description="webhook: environment variable that holds the signing secret.")
    allow_private: bool = Field(
        False, description="Allow loopback and private addresses, and plain http to them: a receiver of your own."
    )
    timeout_seconds: float = Field(10.0, gt=0, le=120, description="Seconds for one whole delivery, answer included.")

    @model_validator(mode="after")
    def _one_reference_each(self) -> ChannelSettings:
        if sum(value is not None for value in (self.url, self.url_file, self.url_env)) != 1:
            raise ValueError("give exactly one of url_file, url_env and url")
        secrets = sum(value is not None for value in (self.secret, self.secret_file, self.secret_env))
        if secrets > 1:
            raise ValueError("give at most one of secret_file, secret_env and secret")
        if secrets and self.kind != "webhook":
            raise ValueError(f"a {self.kind} channel signs nothing: leave the secret away")
        return self


class Match(Strict):
    """All that is given must match; nothing given matches every notice."""

    events: tuple[Kind, ...] = Field((), description="Kinds of notices; none named: all.")
    repos: tuple[str, ...] = Field((), description="Glob patterns of repositories: `git.example/shop/*`.")
    applications: tuple[str, ...] = Field((), description="Glob patterns of applications: `prod/*`.")
    severity: Severity = Field(Severity.INFO, description="The least severity: info, warning or error.")

    @model_validator(mode="after")
    def _known_severity(self) -> Match:
        if self.severity is Severity.UNKNOWN:
            raise ValueError("severity is info, warning or error")
        return self


class Route(Strict):
    match: Match = Field(Match(), description="Which notices.")
    channels: tuple[ChannelName, ...] = Field(min_length=1, description="Names of channels that get them.")


class NotifierSettings(Strict):
    channels: dict[ChannelName, ChannelSettings] = Field(
        default_factory=dict, description="Channels by name: lower-case letters, digits and dashes."
    )
    routes: tuple[Route, ...] = Field(
        (), description="Every route that matches adds its channels. No route at all: every channel gets everything."
    )
    horizon_seconds: float = Field(
        3600.0, gt=0, description="Seconds after which an event is old news and causes no notice."
    )
    quiet_seconds: float = Field(
        600.0, ge=0, description="Seconds in which a channel is not told the same thing of the same group again."
    )
    patience_seconds: float = Field(
        86400.0, gt=0, description="Seconds for which an incident and its recovery wait for a channel that is away."
    )
    ca_file: Path | None = Field(None, description="PEM file of certificate authorities to trust besides the usual.")

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> NotifierSettings:
        for number, route in enumerate(self.routes):
            for name in route.channels:
                if name not in self.channels:
                    known = ", ".join(sorted(self.channels)) or "none is configured"
                    raise ValueError(f"routes.{number}.channels names {name!r}, which is no channel; there is: {known}")
        return self
