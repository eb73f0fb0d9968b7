"""Who gets into a guarded Kafka, and what is said to those who do not. Each refusal has its way in beside it."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from tests.kafka.conftest import Guarded, key_store, unsigned_token

from towline.bus.open import open_bus
from towline.bus.port import NewRecord, Topic, TopicPartition
from towline.errors import BadInput, Permanent

if TYPE_CHECKING:
    from pathlib import Path

    from towline.bus.settings import KafkaSettings

pytestmark = pytest.mark.kafka


async def use(url: str, settings: KafkaSettings | None) -> int:
    """Topic, publish, append, group and read, each over a connection of its own."""
    bus = await open_bus(url, kafka=settings)
    try:
        topic = Topic(f"t{uuid.uuid4().hex[:8]}", 1)
        at = TopicPartition(topic.name, 0)
        await bus.ensure([topic])
        await bus.publish([NewRecord(topic.name, "k", b"1")])
        await bus.append(at, [NewRecord(topic.name, "k", b"2")])
        consumer = await bus.consumer(topic.name, [topic.name], member="0")
        seen = 0
        for _ in range(100):
            seen += len(await consumer.fetch(timeout=0.2))
            if seen == 2:
                break
        await consumer.commit({at: 2})
        return len(await bus.read(at))
    finally:
        await bus.close()


async def refusal(url: str, settings: KafkaSettings | None) -> str:
    with pytest.raises(Permanent) as refused:
        await (await open_bus(url, kafka=settings)).close()
    return str(refused.value)


@pytest.mark.parametrize(
    ("mechanism", "listener"),
    [("PLAIN", "sasl"), ("PLAIN", "clear"), ("SCRAM-SHA-256", "sasl"), ("SCRAM-SHA-512", "sasl")],
)
async def test_a_right_password_gets_in_and_a_wrong_one_is_told_so(
    guarded: Guarded, mechanism: str, listener: str
) -> None:
    tls = guarded.tls if listener == "sasl" else None
    clear = {"in_the_clear": True}

    right = guarded.settings(tls, guarded.login(mechanism) | clear)
    assert await use(guarded.url(listener), right) == 2

    wrong = guarded.settings(tls, guarded.login(mechanism, password="guessed") | clear)
    said = await refusal(guarded.url(listener), wrong)
    assert f"refuses user 'alice' by {mechanism}" in said
    assert "guessed" not in said


async def test_a_login_that_the_brokers_end_is_made_again_unseen(guarded: Guarded) -> None:
    """The client does not log in again on an open connection, so the broker closes it (connections.max.reauth.ms)."""
    bus = await open_bus(guarded.url("clear"), kafka=guarded.settings(None, guarded.login("SCRAM-SHA-256")))
    try:
        topic = Topic(f"t{uuid.uuid4().hex[:8]}", 1)
        at = TopicPartition(topic.name, 0)
        await bus.ensure([topic])
        consumer = await bus.consumer(topic.name, [topic.name], member="0")
        seen: list[bytes | None] = []
        for number in range(14):
            await bus.publish([NewRecord(topic.name, "k", str(number).encode())])
            seen += [record.value for record in await consumer.fetch(timeout=0.5)]
            if seen:
                await consumer.commit({at: len(seen)})
            assert await bus.end(at) == number + 1
        assert seen == [str(number).encode() for number in range(14)]
    finally:
        await bus.close()


async def test_a_token_gets_in_and_an_expired_one_is_told_so(guarded: Guarded) -> None:
    def settings(token: str) -> KafkaSettings:
        file = guarded.file("token", token)
        return guarded.settings(guarded.tls, {"mechanism": "OAUTHBEARER", "token_file": file})

    assert await use(guarded.url("sasl"), settings(unsigned_token("alice"))) == 2
    assert "expired 60 s ago" in await refusal(guarded.url("sasl"), settings(unsigned_token("alice", life=-60)))
    said = await refusal(guarded.url("sasl"), settings("no.token.at-all"))
    assert "refuses the token (OAUTHBEARER)" in said


async def test_tls_alone_gets_in_and_an_unknown_authority_is_told_so(guarded: Guarded) -> None:
    stranger = guarded.file("stranger.pem", trustme.CA().cert_pem.bytes().decode())

    assert await use(guarded.url("tls"), guarded.settings(guarded.tls)) == 2

    assert "is of no authority in kafka.tls.ca_file" in await refusal(
        guarded.url("tls"), guarded.settings({"ca_file": stranger})
    )


async def test_a_certificate_for_another_host_is_refused_unless_told_not_to_look(guarded: Guarded) -> None:
    address = guarded.url("tls").replace("localhost", "127.0.0.1")

    said = await refusal(address, guarded.settings(guarded.tls))
    assert "is for another host" in said

    assert await use(address, guarded.settings(guarded.tls | {"verify_host_name": False})) == 2


async def test_a_listener_that_wants_a_certificate_gets_ours(guarded: Guarded) -> None:
    ours = guarded.file("client.pem", key_store(guarded.authority.issue_cert("towline.example")))

    bus = await open_bus(guarded.url("mutual"), kafka=guarded.settings(guarded.tls | {"cert_file": ours}))
    await bus.close()

    assert "wants a certificate of ours" in await refusal(guarded.url("mutual"), guarded.settings(guarded.tls))


@pytest.mark.parametrize(
    ("listener", "tls", "sasl", "said"),
    [
        ("plain", True, False, "does not speak TLS"),
        ("plain", False, True, "takes no login"),
        ("tls", False, False, "speaks TLS, and kafka.tls is not set"),
        ("tls", True, True, "takes no login"),
        ("sasl", False, False, "speaks TLS, and kafka.tls is not set"),
        ("sasl", True, False, "wants a login"),
        ("clear", False, False, "wants a login"),
        ("clear", True, False, "does not speak TLS"),
    ],
)
async def test_the_wrong_kind_of_listener_is_told_by_its_name(
    guarded: Guarded, listener: str, tls: bool, sasl: bool, said: str
) -> None:
    url = f"kafka://{guarded.instance.kafka}" if listener == "plain" else guarded.url(listener)
    login = guarded.login("SCRAM-SHA-256") if sasl else None

    assert said in await refusal(url, guarded.settings(guarded.tls if tls else None, login))


async def test_no_secret_is_logged_at_any_level(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    """The client writes out each request at level debug, and a PLAIN login is one."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "aiokafka")

    await use(guarded.url("sasl"), guarded.settings(guarded.tls, guarded.login("PLAIN")))

    assert "aiokafka" in {record.name for record in caplog.records}
    assert "al1ce" not in caplog.text
    assert "al1ce" not in "".join(str(record.__dict__) for record in caplog.records)


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        ({"ca_file": "nowhere.pem"}, "kafka.tls.ca_file .*nowhere.pem holds no PEM certificates: No such file"),
        ({"ca_file": "empty.pem"}, "kafka.tls.ca_file .*empty.pem holds no PEM certificates"),
        ({"cert_file": "nowhere.pem"}, "kafka.tls.cert_file .*nowhere.pem cannot be used: No such file"),
    ],
)
async def test_a_file_that_is_not_as_it_should_be_is_named(
    tls: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.pem").touch()
    settings = Guarded.settings(None, tls)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=said):
        await open_bus("kafka://127.0.0.1:1", kafka=settings)
