"""Notices to any HTTP receiver: a CloudEvent in structured mode, signed as Standard Webhooks says.

Sources: CloudEvents HTTP protocol binding v1.0.2 §3.2; Standard Webhooks 1.0.0. `webhook-id` and the CloudEvent's
`id` are the notice's id, the same on every try, so a receiver tells a second copy by it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from towline.delivery.codec import source_of
from towline.errors import BadInput
from towline_notifier.channels.post import Endpoint
from towline_notifier.messages import Deliver
from towline_notifier.secret import Secret

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
PREFIX = "whsec_"


@dataclass(frozen=True, slots=True)
class Webhook:
    endpoint: Endpoint
    secret: Secret | None
    """None sends unsigned."""

    async def send(self, deliver: Deliver, tries: int) -> None:
        content = orjson.dumps(cloudevent(deliver))
        headers = {"content-type": CONTENT_TYPE, "webhook-id": deliver.id}
        if self.secret is not None:
            key = signing_key(await self.secret.read(), self.secret.what)
            headers |= signature(deliver.id, content, key, self.endpoint.now())
        await self.endpoint.post(content, headers, tries)


def cloudevent(deliver: Deliver) -> dict[str, Any]:
    """The notice as it also stands on `towline.notices`: a CloudEvent whose data is a CDEvent."""
    notice, source = deliver.notice, source_of("notifier")
    return {
        "specversion": "1.0",
        "id": deliver.id,
        "source": source,
        "type": type(notice).type,
        "subject": notice.subject,
        "time": deliver.time.isoformat(),
        "datacontenttype": "application/json",
        "partitionkey": notice.group,
        "data": notice.to_cdevent(id=deliver.id, source=source, time=deliver.time),
    }


def signature(id: str, content: bytes, key: bytes, now: datetime) -> dict[str, str]:
    """The headers that prove sender and age: HMAC-SHA256 over `id.timestamp.body`."""
    timestamp = str(int(now.timestamp()))
    signed = hmac.new(key, f"{id}.{timestamp}.".encode() + content, hashlib.sha256).digest()
    return {"webhook-timestamp": timestamp, "webhook-signature": f"v1,{base64.b64encode(signed).decode()}"}


def signing_key(secret: str, what: str) -> bytes:
    """The bytes behind `whsec_<base64>`. Raises BadInput, without the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) < 16:
        raise BadInput(
            f"{what} is no signing secret; expected whsec_ and the base64 of at least 16 random bytes: "
            "echo whsec_$(openssl rand -base64 32)"
        )
    return key
