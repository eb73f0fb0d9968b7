"""Scope: each channel against a real HTTP server on loopback: what it sends, and what each answer means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from towline.errors import BadInput, DependencyDown, Permanent, Retryable
from towline.events import NoticeRendered, Severity
from towline_notifier.channels.port import Channel
from towline_notifier.channels.post import POISON_TRIES, seconds_of
from towline_notifier.channels.slack import FIELD_CHARS, HEADER_CHARS, SECTION_CHARS, escaped, message
from towline_notifier.channels.table import channel
from towline_notifier.messages import Deliver
from towline_notifier.settings import ChannelSettings
from towline_notifier.transport import client

NOW = datetime(2026, 11, 24, 6, 0, tzinfo=UTC)
KEY = b"0123456789abcdef0123456789abcdef"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
TIMES = {"time": NOW, "expires": NOW + timedelta(hours=1)}


def notice(**changes: object) -> NoticeRendered:
    values = {"channel": "ops", "group": "g/r!t", "severity": Severity.ERROR, "title": "Broken", "about": "event-1"}
    return NoticeRendered.model_validate(
        {"kind": "sync-failed", "text": "why", "facts": {"a": "b"}, **values, **changes}
    )


DELIVER = Deliver(channel="ops", id="notice-1", notice=notice(), **TIMES)


def channel_to(url: str | None, http: httpx.AsyncClient, kind: str = "webhook", **settings: object) -> Channel:
    values = {"kind": kind, "url": url, "allow_private": True, "timeout_seconds": 5, **settings}
    return channel("ops", ChannelSettings.model_validate(values), http, lambda: NOW)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with client() as shared:
        yield shared


async def test_a_webhook_gets_a_signed_cloudevent_that_its_id_identifies(
    receiver: Any, http: httpx.AsyncClient
) -> None:
    await channel_to(receiver.url, http, secret=SECRET).send(DELIVER, 1)
    [got] = receiver.requests
    event = json.loads(got.body)
    assert got.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert {name: event[name] for name in ("specversion", "id", "source", "type", "subject", "time")} == {
        "specversion": "1.0",
        "id": "notice-1",
        "source": "/towline/notifier",
        "type": "dev.cdeventsx.towline-notice.rendered.0.1.0",
        "subject": "ops/g/r!t",
        "time": "2026-11-24T06:00:00+00:00",
    }
    assert NoticeRendered.model_validate(event["data"]["customData"]) == DELIVER.notice
    assert got.headers["webhook-id"] == "notice-1"
    timestamp = got.headers["webhook-timestamp"]
    assert timestamp == str(int(NOW.timestamp()))
    signed = hmac.new(KEY, b".".join((b"notice-1", timestamp.encode(), got.body)), hashlib.sha256).digest()
    assert got.headers["webhook-signature"] == "v1," + base64.b64encode(signed).decode()


async def test_an_answer_is_not_unpacked(receiver: Any, http: httpx.AsyncClient) -> None:
    """A small answer may unpack to a huge one; one that cannot be unpacked shows that nobody tries."""
    receiver.answers.append(web.Response(body=b"no gzip", headers={"content-encoding": "gzip"}))
    await channel_to(receiver.url, http).send(DELIVER, 1)
    assert receiver.requests[0].headers["accept-encoding"] == "identity"


async def test_a_second_try_is_the_same_notice(receiver: Any, http: httpx.AsyncClient) -> None:
    webhook = channel_to(receiver.url, http, secret=SECRET)
    await webhook.send(DELIVER, 1)
    await webhook.send(DELIVER, 2)
    first, second = receiver.requests
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


async def test_a_webhook_without_a_secret_is_not_signed(receiver: Any, http: httpx.AsyncClient) -> None:
    await channel_to(receiver.url, http).send(DELIVER, 1)
    assert "webhook-signature" not in receiver.requests[0].headers


async def test_slack_gets_text_and_blocks(receiver: Any, http: httpx.AsyncClient) -> None:
    await channel_to(receiver.url, http, "slack").send(DELIVER, 1)
    sent = json.loads(receiver.requests[0].body)
    assert sent["text"] == "🔴 Broken"
    assert [block["type"] for block in sent["blocks"]] == ["header", "section", "section"]
    assert sent["blocks"][2]["fields"][0]["text"] == "a\nb"


async def test_slack_saying_200_but_not_ok_is_a_failure_that_repeats_only_known_words(
    receiver: Any, http: httpx.AsyncClient
) -> None:
    slack = channel_to(receiver.url, http, "slack")
    receiver.answers += [web.Response(text="no_service"), web.Response(text="you sent: s3cr3t")]
    with pytest.raises(Permanent, match="not ok: no_service"):
        await slack.send(DELIVER, 1)
    with pytest.raises(Permanent, match=r"not ok$"):
        await slack.send(DELIVER, 1)


@pytest.mark.parametrize("kind", ["webhook", "slack"])
async def test_too_many_is_tried_again_when_the_channel_says(receiver: Any, http: httpx.AsyncClient, kind: str) -> None:
    receiver.answers.append(web.Response(status=429, headers={"retry-after": "7"}))
    with pytest.raises(Retryable) as caught:
        await channel_to(receiver.url, http, kind).send(DELIVER, 1)
    assert caught.value.after == 7
    assert not isinstance(caught.value, DependencyDown), "a limit is no outage: the breaker stays closed"


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
async def test_a_failing_server_is_a_dependency_that_is_down(
    receiver: Any, http: httpx.AsyncClient, status: int
) -> None:
    receiver.answers.append(web.Response(status=status, headers={"retry-after": "3"}))
    with pytest.raises(DependencyDown) as caught:
        await channel_to(receiver.url, http).send(DELIVER, 1)
    assert caught.value.after == 3


async def test_a_notice_that_always_breaks_its_receiver_is_given_up(receiver: Any, http: httpx.AsyncClient) -> None:
    receiver.answers.append(web.Response(status=500))
    with pytest.raises(Permanent, match="given up"):
        await channel_to(receiver.url, http).send(DELIVER, POISON_TRIES)


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 413])
async def test_another_refusal_is_final_and_tells_the_status_alone(
    receiver: Any, http: httpx.AsyncClient, status: int
) -> None:
    receiver.answers.append(web.Response(status=status, text="s3cr3t-body", headers={"x": "s3cr3t"}))
    with pytest.raises(Permanent) as caught:
        await channel_to(receiver.url, http).send(DELIVER, 1)
    assert str(status) in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "127.0.0.1" not in str(caught.value)


async def test_silence_ends_at_the_time_limit(receiver: Any, http: httpx.AsyncClient) -> None:
    receiver.silent = True
    with pytest.raises(DependencyDown, match=r"did not answer in 0\.2 s"):
        await channel_to(receiver.url, http, timeout_seconds=0.2).send(DELIVER, 1)


async def test_nobody_listening_is_a_dependency_that_is_down_and_names_no_url(
    receiver: Any, start_receiver: Any, http: httpx.AsyncClient
) -> None:
    with pytest.raises(DependencyDown) as caught:
        await channel_to(receiver.url.replace("127.0.0.1", "127.0.0.9"), http).send(DELIVER, 1)
    assert str(caught.value) == "channel ops does not answer: ConnectError"


async def test_a_private_address_is_refused_by_default(receiver: Any, http: httpx.AsyncClient) -> None:
    with pytest.raises(Permanent, match="channel ops: the URL leads to a loopback address"):
        await channel_to(receiver.url, http, allow_private=False).send(DELIVER, 1)
    assert receiver.requests == []


async def test_a_url_file_is_read_again_for_every_notice(
    start_receiver: Any, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    old, new = await start_receiver(), await start_receiver()
    file = tmp_path / "url"
    file.write_text(old.url + "\n")
    webhook = channel_to(None, http, url_file=str(file))
    await webhook.send(DELIVER, 1)
    file.write_text(new.url)
    await webhook.send(DELIVER, 1)
    assert (len(old.requests), len(new.requests)) == (1, 1)
    file.unlink()
    with pytest.raises(DependencyDown, match=r"notifier\.channels\.ops\.url cannot be read now"):
        await webhook.send(DELIVER, 1)


async def test_a_url_comes_from_the_environment(
    receiver: Any, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPS_URL", receiver.url)
    await channel_to(None, http, url_env="OPS_URL").send(DELIVER, 1)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url_file": "/nonexistent/url"}, "url_file names /nonexistent/url, which cannot be read"),
        ({"url_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE, which is not set"),
        ({"secret": "whsec_???"}, "secret is no signing secret; expected whsec_"),
        ({"secret": "c2hvcnQ="}, "at least 16 random bytes"),
    ],
)
async def test_a_secret_that_leads_nowhere_is_refused_at_start(
    http: httpx.AsyncClient, settings: dict[str, str], said: str
) -> None:
    with pytest.raises(BadInput) as caught:
        channel_to("https://hooks.example.test/s3cr3t" if "secret" in settings else None, http, **settings)
    assert said in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_no_secret_shows_in_the_settings_own_words() -> None:
    settings = ChannelSettings(kind="webhook", url=SecretStr("https://s3cr3t"), secret=SecretStr(SECRET))
    assert "s3cr3t" not in repr(settings)
    assert SECRET not in settings.model_dump_json()


HOSTILE = "<!channel> <@U123> <https://evil.test|log in> & <!here>"


def test_slack_markup_in_foreign_text_is_inert() -> None:
    sent = message(notice(title=HOSTILE, text=HOSTILE, facts={"title": HOSTILE}))
    assert "<" not in json.dumps(sent)
    assert "mrkdwn" not in json.dumps(sent)
    assert sent["blocks"][1]["text"]["text"].startswith("&lt;!channel&gt; &lt;@U123&gt;")


@pytest.mark.parametrize("char", ["x", "<", "&", "é", "🔴"])
def test_every_slack_text_stays_under_its_limit_and_keeps_entities_whole(char: str) -> None:
    long = char * 9000
    sent = message(notice(title=long, text=long, facts={str(i): long for i in range(20)}))
    header, section, fields = sent["blocks"]
    assert len(header["text"]["text"]) <= HEADER_CHARS
    assert len(section["text"]["text"]) <= SECTION_CHARS
    assert len(fields["fields"]) <= 10
    assert all(len(field["text"]) <= FIELD_CHARS for field in fields["fields"])
    assert section["text"]["text"].count("&") == section["text"]["text"].count(";")


def test_text_at_the_limit_is_not_cut() -> None:
    assert escaped("ab", 2) == "ab"
    assert escaped("abc", 2) == "a…"
    assert escaped("a<<<", 6) == "a&lt;…"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("1.5", 1.5),
        (" 30 ", 30),
        ("999999", 3600),
        ("Tue, 24 Nov 2026 06:01:00 GMT", 60),
        ("Tue, 24 Nov 2026 05:00:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("1.2.3", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert seconds_of(header, NOW) == seconds
