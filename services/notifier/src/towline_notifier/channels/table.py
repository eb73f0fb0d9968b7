"""Channels from settings: a new kind of channel is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import httpx

from towline_notifier.channels.port import Channel
from towline_notifier.channels.post import Clock, Endpoint
from towline_notifier.channels.slack import Slack
from towline_notifier.channels.webhook import Webhook, signing_key
from towline_notifier.secret import Secret
from towline_notifier.settings import ChannelSettings


def utc_now() -> datetime:
    return datetime.now(UTC)


def channel(name: str, settings: ChannelSettings, client: httpx.AsyncClient, now: Clock = utc_now) -> Channel:
    """Raises BadInput when a secret's reference leads nowhere."""
    url = Secret(f"notifier.channels.{name}.url", settings.url, settings.url_file, settings.url_env)
    url.check()
    endpoint = Endpoint(name, url, settings.allow_private, settings.timeout_seconds, client, now)
    return _KINDS[settings.kind](endpoint, settings)


def _webhook(endpoint: Endpoint, settings: ChannelSettings) -> Channel:
    if settings.secret is None and settings.secret_file is None and settings.secret_env is None:
        return Webhook(endpoint, None)
    what = endpoint.url.what.removesuffix("url") + "secret"
    secret = Secret(what, settings.secret, settings.secret_file, settings.secret_env)
    signing_key(secret.check(), what)
    return Webhook(endpoint, secret)


def _slack(endpoint: Endpoint, _: ChannelSettings) -> Channel:
    return Slack(endpoint)


_KINDS: dict[str, Callable[[Endpoint, ChannelSettings], Channel]] = {"webhook": _webhook, "slack": _slack}
