"""Tokens from an endpoint, and secrets that change under a running bus."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from tests.kafka.conftest import Guarded, unsigned_token

from towline.bus.kafka import KafkaBus
from towline.bus.kafka.token import EndpointToken, NoToken
from towline.bus.open import open_bus
from towline.bus.port import BusDown
from towline.bus.settings import KafkaSettings, TokenEndpointSettings
from towline.errors import Permanent

SECRET = "cl:ient s3cret"


class Endpoint:
    """A token endpoint that knows one client; `answers` are given first."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.answers: list[web.Response] = []

    async def handle(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        self.asked.append(form)
        if self.answers:
            return self.answers.pop()
        named = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
        if named != "towline:cl%3Aient+s3cret":
            said = {"error": "invalid_client", "error_description": f"no such client, secret={SECRET.split()[1]}"}
            return web.json_response(said, status=401)
        return web.json_response({"access_token": unsigned_token("alice"), "expires_in": 100})


@pytest_asyncio.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    app = web.Application()
    app.router.add_post("/token", endpoint.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    yield endpoint
    await runner.cleanup()


def settings_of(guarded: Guarded, endpoint: Endpoint, secret: str = SECRET) -> KafkaSettings:
    file = guarded.file("client.secret", f"{secret}\n")
    asked = {"url": endpoint.url, "client_id": "towline", "client_secret_file": file, "scope": "kafka"}
    return guarded.settings(guarded.tls, {"mechanism": "OAUTHBEARER", "token_endpoint": asked})


@pytest.mark.kafka
async def test_one_token_of_the_endpoint_serves_every_connection(guarded: Guarded, endpoint: Endpoint) -> None:
    bus = await open_bus(guarded.url("sasl"), kafka=settings_of(guarded, endpoint))
    try:
        await bus.topics()
    finally:
        await bus.close()

    assert endpoint.asked == [{"grant_type": "client_credentials", "scope": "kafka"}]


@pytest.mark.kafka
async def test_a_refused_client_is_told_so_without_its_secret(guarded: Guarded, endpoint: Endpoint) -> None:
    with pytest.raises(Permanent, match="refuses with 401: invalid_client no such client") as refused:
        await open_bus(guarded.url("sasl"), kafka=settings_of(guarded, endpoint, "another"))

    assert "s3cret" not in str(refused.value)
    assert "another" not in str(refused.value)


async def test_a_token_is_asked_for_again_before_it_ends(endpoint: Endpoint) -> None:
    now = [1000.0]
    asked = TokenEndpointSettings(url=endpoint.url, client_id="towline", client_secret_env="UNUSED")
    tokens = EndpointToken(asked, lambda: SECRET, lambda: now[0])

    first = await tokens.token()
    now[0] += 79
    assert await tokens.token() == first
    now[0] += 2
    await tokens.token()

    assert len(endpoint.asked) == 2


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (web.Response(text="<html>", status=502), "answers 502 without a JSON object"),
        (web.json_response([1]), "answers 200 without a JSON object"),
        (web.json_response({"expires_in": 3}), "refuses with 200: no access_token"),
        (web.Response(status=302, headers={"location": "http://127.0.0.1:1/"}), "answers 302 without"),
    ],
)
async def test_an_answer_without_a_token_is_told(endpoint: Endpoint, answer: web.Response, said: str) -> None:
    endpoint.answers.append(answer)
    asked = TokenEndpointSettings(url=endpoint.url, client_id="towline", client_secret_env="UNUSED")

    with pytest.raises(NoToken, match=said):
        await EndpointToken(asked, lambda: SECRET).token()


@pytest.mark.kafka
async def test_a_password_that_changes_makes_a_running_bus_wait_and_find_back(guarded: Guarded) -> None:
    settings = guarded.settings(guarded.tls, guarded.login("SCRAM-SHA-256"))
    bus = await KafkaBus.open(guarded.url("sasl").removeprefix("kafka://"), settings)
    try:
        await bus._throw_away_admin()
        guarded.login("SCRAM-SHA-256", password="changed-there-not-here")
        with pytest.raises(BusDown, match="refuses user 'alice' by SCRAM-SHA-256"):
            await bus.topics()

        guarded.login("SCRAM-SHA-256")
        await bus.topics()

        (guarded.folder / "alice.password").unlink()
        await bus._throw_away_admin()
        with pytest.raises(BusDown, match=r"alice.password cannot be read: No such file"):
            await bus.topics()
    finally:
        await bus.close()
