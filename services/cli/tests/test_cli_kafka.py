"""What the command line says about a Kafka without asking one; real clusters are in tests/kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline import flow
from towline.bus.settings import BusSettings
from towline.errors import BadInput
from towline_cli import cluster, kafka_access, main
from towline_cli.settings import read


def writers_of(topic: str) -> list[str]:
    return [
        service
        for service in flow.SERVICES
        if any(right.name == topic and "Write" in right.operations for right in kafka_access.rights_of(service))
    ]


def test_each_topic_is_written_by_one_service_alone() -> None:
    assert {stream.topic: writers_of(stream.topic) for stream in flow.STREAMS} == {
        stream.topic: [stream.producer] for stream in flow.STREAMS
    }
    for service in flow.SERVICES:
        for topic in (flow.inbox_of(service), flow.state_of(service), flow.dead_of(service)):
            assert writers_of(topic) == [service]


def test_a_service_that_makes_no_topics_may_not() -> None:
    for creates in (True, False):
        rights = kafka_access.rights_of(flow.RUNNER, creates=creates)
        assert any("Create" in right.operations for right in rights) is creates


def test_a_right_is_one_command() -> None:
    rights = [kafka_access.Right("topic", "towline.", ("Describe", "Create"), prefixed=True)]

    assert list(kafka_access.commands("User:CN=ci,O=x y", rights, "k1:9093")) == [
        "kafka-acls.sh --bootstrap-server k1:9093 --add --allow-principal 'User:CN=ci,O=x y' "
        "--operation Describe --operation Create --topic towline. --resource-pattern-type prefixed"
    ]


def test_another_bus_is_no_kafka() -> None:
    with pytest.raises(BadInput, match="this is about a kafka:// bus; name one with --bus"):
        cluster.servers_of(BusSettings())
    assert cluster.servers_of(BusSettings(bus="kafka://a:1,b:2?replication=3")) == "a:1,b:2"


@pytest.mark.parametrize(
    "bus",
    [
        "kafka://ada:hunter2@h:1",
        "kafka://h:1?password=hunter2",
        "kafka://h:1?replication=hunter2",
        "http://ada:hunter2@h:1",
        "sqlite:///x?password=hunter2",
    ],
)
def test_what_is_wrong_with_a_bus_is_said_without_its_secrets(bus: str) -> None:
    """`towline bus acls` printed the password in every command, the others the option's value."""
    with pytest.raises(BadInput) as refused:
        cluster.servers_of(BusSettings(bus=bus))
    assert "hunter2" not in str(refused.value)


def test_an_error_shows_what_a_terminal_would_obey(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger's key came into the sentence as it was, with its escape sequences."""

    def fails() -> None:
        raise BadInput("did you mean 1234 (notifier a\x1b[2J\x1b]0;owned\x07)?\nsecond line")

    monkeypatch.setattr(main, "app", fails)
    with pytest.raises(SystemExit, match="2"):
        main.main()
    assert capsys.readouterr().err == "towline: did you mean 1234 (notifier a [2J ]0;owned )?\nsecond line\n"


@pytest.mark.parametrize(
    ("kafka", "said"),
    [
        (
            "sasl: {mechanism: PLAIN, username: a, password_file: p}",
            "PLAIN without TLS shows the secret to",
        ),
        ("sasl: {mechanism: SCRAM-SHA-256, username: a}", "takes username and exactly one of password_file and"),
        ("sasl: {mechanism: OAUTHBEARER, username: a}", "takes exactly one of token_file and token_endpoint"),
        ("sasl: {mechanism: GSSAPI}", "kafka.sasl.mechanism: Input should be 'PLAIN', 'SCRAM-SHA-256'"),
        ("sasl: {mechanism: PLAIN, passwrd_file: p}", r"towline.yaml:2: unknown setting kafka.sasl.passwrd_file; did"),
        ("tls: {key_file: k}", "key_file and key_password_file need cert_file beside them"),
        (
            "sasl: {mechanism: OAUTHBEARER, token_endpoint: {url: 'http://idp/t', client_id: a, client_secret_env: S}}",
            "'http://idp/t' is no https:// address without credentials",
        ),
        ("compression: brotli", "kafka.compression: Input should be 'none', 'gzip'"),
    ],
)
def test_a_wrong_setting_is_named(kafka: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "towline.yaml"
    file.write_text(f"bus: kafka://k:1\nkafka: {{{kafka}}}\n")

    with pytest.raises(BadInput, match=said):
        read(file, {})


def test_the_environment_reaches_into_the_section(tmp_path: Path) -> None:
    file = tmp_path / "towline.yaml"
    file.write_text("bus: kafka://k:1\nkafka: {tls: {}, sasl: {mechanism: PLAIN, username: a, password_env: PW}}\n")

    settings = read(file, {"TOWLINE_KAFKA__SASL__MECHANISM": "SCRAM-SHA-512", "TOWLINE_KAFKA__TLS__CA_FILE": "/c"})

    assert settings.kafka.sasl is not None
    assert settings.kafka.sasl.mechanism == "SCRAM-SHA-512"
    assert settings.kafka.tls is not None
    assert settings.kafka.tls.ca_file == Path("/c")
