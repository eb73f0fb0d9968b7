"""Notices to Slack, or to what speaks its incoming webhooks (Mattermost, Rocket.Chat).

Sources: Slack's pages on incoming webhooks, on layout blocks and on escaping text. All text goes as `plain_text`,
where no markup is read, and `&`, `<` and `>` are escaped besides: `<!channel>` in a commit title alarms nobody. A text
over a block's limit would make Slack refuse the whole message, so each is cut before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from towline.errors import Permanent
from towline.events import NoticeRendered
from towline_notifier import render
from towline_notifier.channels.post import Endpoint
from towline_notifier.messages import Deliver

HEADER_CHARS = 150
SECTION_CHARS = 3000
FIELD_CHARS = 2000
MOST_FIELDS = 10
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

# What Slack says in the body of a refusal; anything else is not repeated, for it may quote what was sent.
KNOWN_ERRORS = frozenset(
    {
        "action_prohibited",
        "channel_is_archived",
        "channel_not_found",
        "invalid_blocks",
        "invalid_payload",
        "invalid_token",
        "no_service",
        "no_service_id",
        "no_team",
        "no_text",
        "posting_to_general_channel_denied",
        "rollup_error",
        "team_disabled",
        "too_many_attachments",
        "user_not_found",
    }
)


@dataclass(frozen=True, slots=True)
class Slack:
    endpoint: Endpoint

    async def send(self, deliver: Deliver, tries: int) -> None:
        content = orjson.dumps(message(deliver.notice))
        body = await self.endpoint.post(content, {"content-type": "application/json; charset=utf-8"}, tries)
        answer = body.strip().decode(errors="replace")
        if answer != "ok":
            said = f": {answer}" if answer in KNOWN_ERRORS else ""
            raise Permanent(f"channel {self.endpoint.name} answered 200 but not ok{said}")


def message(notice: NoticeRendered) -> dict[str, Any]:
    """`text` is what a phone shows before the message is opened; `blocks` is the message."""
    title = render.spoken(notice)
    blocks: list[dict[str, Any]] = [{"type": "header", "text": _plain(title, HEADER_CHARS)}]
    if notice.text:
        blocks.append({"type": "section", "text": _plain(notice.text, SECTION_CHARS)})
    fields = [_plain(f"{name}\n{value}", FIELD_CHARS) for name, value in notice.facts.items() if value]
    if fields:
        blocks.append({"type": "section", "fields": fields[:MOST_FIELDS]})
    return {"text": escaped(title, SECTION_CHARS), "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def escaped(text: str, limit: int) -> str:
    """The text with Slack's control characters as entities, at most `limit` long and cut between characters."""
    entities = [_ENTITIES.get(char, char) for char in text]
    if sum(map(len, entities)) <= limit:
        return "".join(entities)
    kept, length = [], 1
    for entity in entities:
        length += len(entity)
        if length > limit:
            break
        kept.append(entity)
    return "".join(kept) + "…"


def _plain(text: str, limit: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": escaped(text, limit), "emoji": False}
