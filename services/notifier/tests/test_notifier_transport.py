"""Scope: the guarded client against real servers on loopback.

Each refusal has its control: the same request gets through where the protection is taken away.
"""

from __future__ import annotations

import logging
import ssl
import subprocess
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from towline.errors import DependencyDown
from towline_notifier.address import Address
from towline_notifier.transport import ALLOW_PRIVATE, GuardedTransport, Refused, client

ALLOWED = {ALLOW_PRIVATE: True}


class Names:
    """A resolver whose answers are scripted; the last one repeats."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [ip_address(text) for text in answer]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"])
async def test_loopback_is_refused_however_it_is_written(receiver: Any, host: str) -> None:
    url = f"http://{host}:{receiver.port}/"
    async with client() as guarded:
        with pytest.raises(Refused):
            await guarded.post(url)
    assert receiver.requests == []
    async with httpx.AsyncClient(trust_env=False) as unguarded:
        assert (await unguarded.post(url)).status_code == 200


async def test_a_private_receiver_is_reached_when_its_channel_allows_it(receiver: Any) -> None:
    async with client() as guarded:
        answer = await guarded.post(f"http://127.0.0.1:{receiver.port}/", content=b"x", extensions=ALLOWED)
    assert answer.status_code == 200
    assert receiver.requests[0].body == b"x"


async def test_one_bad_address_among_good_ones_refuses_the_name(receiver: Any) -> None:
    async with client(resolve=Names(["127.0.0.1", "169.254.169.254"])) as guarded:
        with pytest.raises(Refused, match="metadata"):
            await guarded.post(f"http://hooks.example.test:{receiver.port}/", extensions=ALLOWED)
    assert receiver.requests == []


async def test_a_name_that_changes_its_address_after_the_check_leads_nowhere_new(start_receiver: Any) -> None:
    checked = await start_receiver("127.0.0.1")
    rebound = await start_receiver("127.0.0.2", checked.port)
    names = Names(["127.0.0.1"], ["127.0.0.2"])
    url = f"http://hooks.example.test:{checked.port}/"
    async with client(resolve=names) as guarded:
        await guarded.post(url, extensions=ALLOWED)
        assert names.asked == ["hooks.example.test"]
        assert (len(checked.requests), len(rebound.requests)) == (1, 0)
        await guarded.post(url, extensions=ALLOWED)
    assert (len(checked.requests), len(rebound.requests)) == (1, 1), "control: the second answer is a real server"
    assert checked.requests[0].headers["host"] == f"hooks.example.test:{checked.port}"


async def test_plain_http_is_refused_for_a_public_address_even_when_private_is_allowed() -> None:
    async with client(resolve=Names(["93.184.215.14"])) as guarded:
        with pytest.raises(Refused, match="only https"):
            await guarded.post("http://hooks.example.test/", extensions=ALLOWED)


async def test_a_redirect_is_not_followed(start_receiver: Any) -> None:
    front, behind = await start_receiver(), await start_receiver()
    front.answers += [web.Response(status=307, headers={"location": behind.url}) for _ in range(2)]
    async with client() as guarded:
        assert (await guarded.post(front.url, extensions=ALLOWED)).status_code == 307
    assert behind.requests == []
    async with httpx.AsyncClient(trust_env=False, follow_redirects=True) as unguarded:
        await unguarded.post(front.url)
    assert len(behind.requests) == 1, "control: a client that follows gets there"


async def test_a_second_address_is_tried_when_the_first_does_not_answer(receiver: Any) -> None:
    async with client(resolve=Names(["127.0.0.3", "127.0.0.1"])) as guarded:
        answer = await guarded.post(f"http://hooks.example.test:{receiver.port}/", content=b"x", extensions=ALLOWED)
    assert answer.status_code == 200
    assert receiver.requests[0].body == b"x"


async def test_a_name_nobody_knows_is_a_dependency_that_is_down() -> None:
    async with client() as guarded:
        with pytest.raises(DependencyDown) as caught:
            await guarded.post("https://no-such-name.invalid/s3cr3t")
    assert "invalid" not in str(caught.value).replace("cannot", "")


async def test_no_proxy_is_taken_from_the_environment(
    receiver: Any, start_receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = await start_receiver()
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("ALL_PROXY", proxy.url)
    async with client() as guarded:
        await guarded.post(receiver.url, extensions=ALLOWED)
    assert (len(receiver.requests), len(proxy.requests)) == (1, 0)


async def test_no_url_reaches_the_log(receiver: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with httpx.AsyncClient(trust_env=False) as unguarded:
        logging.getLogger("httpx").filters.clear()
        with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, logger="httpx"):
            await unguarded.post(receiver.url)
    assert "s3cr3t" in caplog.text, "control: httpx by itself logs the URL"
    caplog.clear()
    async with client() as guarded:
        with caplog.at_level(logging.DEBUG):
            await guarded.post(receiver.url, extensions=ALLOWED)
    assert "s3cr3t" not in caplog.text


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate in one file, for hooks.example.test and for nothing else."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=hooks.example.test", "-addext", "subjectAltName=DNS:hooks.example.test"]
    subprocess.run([*command, "-keyout", str(file), "-out", str(file) + ".crt"], check=True, capture_output=True)
    file.write_text(file.read_text() + Path(str(file) + ".crt").read_text())
    return file


async def test_tls_proves_the_name_and_not_the_address(start_receiver: Any, certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    receiver = await start_receiver(tls=tls)
    async with client(certificate, Names(["127.0.0.1"])) as guarded:
        answer = await guarded.post(f"https://hooks.example.test:{receiver.port}/", extensions=ALLOWED)
        assert answer.status_code == 200
        with pytest.raises(httpx.ConnectError):
            await guarded.post(f"https://other.example.test:{receiver.port}/", extensions=ALLOWED)
    async with client(resolve=Names(["127.0.0.1"])) as distrusting:
        with pytest.raises(httpx.ConnectError):
            await distrusting.post(f"https://hooks.example.test:{receiver.port}/", extensions=ALLOWED)
    assert len(receiver.requests) == 1


async def test_a_connection_proven_for_one_name_is_not_used_for_another(start_receiver: Any, certificate: Path) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    receiver = await start_receiver(tls=tls)
    keeping = httpx.AsyncHTTPTransport(verify=ssl.create_default_context(cafile=str(certificate)))
    unguarded = httpx.AsyncClient(transport=GuardedTransport(keeping, Names(["127.0.0.1"])))
    guarded = client(certificate, Names(["127.0.0.1"]))
    async with unguarded, guarded:
        for each in (unguarded, guarded):
            await each.post(f"https://hooks.example.test:{receiver.port}/", extensions=ALLOWED)
        await unguarded.post(f"https://other.example.test:{receiver.port}/", extensions=ALLOWED)
        assert len(receiver.requests) == 3, "control: a kept connection carries another name's request"
        with pytest.raises(httpx.ConnectError):
            await guarded.post(f"https://other.example.test:{receiver.port}/", extensions=ALLOWED)
    assert len(receiver.requests) == 3
