"""The registry's client against a real HTTP server: what it believes, whom it tells a login, what fails how."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from towline.errors import DependencyDown, Permanent, Retryable
from towline_image_builder.registry.auth import may_login
from towline_image_builder.registry.client import OCI_MANIFEST, Registry
from towline_image_builder.settings import RegistryAccess

BLOB = b"content of a layer"
DIGEST = f"sha256:{hashlib.sha256(BLOB).hexdigest()}"
PASSWORD = "hunter2"
Handler = Callable[[web.Request], Awaitable[web.Response]]


@dataclass
class Server:
    """Answers as told; `seen` are method, path and authorization of every request."""

    port: int = 0
    handler: Handler | None = None
    seen: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request.method, request.path, request.headers.get("authorization", "")))
        assert self.handler is not None
        return await self.handler(request)


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[Server]]]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> Server:
        server = Server(handler=handler)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", server.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.port = runner.addresses[0][1]
        return server

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield client


@pytest.fixture
def login(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    return {"user": "towline", "password_file": tmp_path / "password"}


Serve = Callable[[Handler], Awaitable[Server]]


def answering(status: int, body: bytes = b"", **headers: str) -> Handler:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handler


def registry(server: Server, http: httpx.AsyncClient, **more: object) -> Registry:
    return Registry(RegistryAccess.model_validate({"address": server.address, **more}), http)


async def test_a_manifest_has_the_digest_that_was_computed_here(serve: Serve, http: httpx.AsyncClient) -> None:
    server = await serve(answering(200, b"{}", content_type=OCI_MANIFEST, docker_content_digest="sha256:lie"))

    found = await registry(server, http).manifest("app", "1")

    assert found is not None
    assert found.digest == f"sha256:{hashlib.sha256(b'{}').hexdigest()}"


async def test_what_is_not_there_is_none(serve: Serve, http: httpx.AsyncClient) -> None:
    server = await serve(answering(404))

    assert await registry(server, http).manifest("app", "1") is None


@pytest.mark.parametrize(
    ("wanted", "body", "kind", "said"),
    [
        (DIGEST, b"{}", OCI_MANIFEST, "was answered with sha256:"),
        ("1", b"{}", "text/html", "is not understood"),
        ("1", b" " * (5 << 20), OCI_MANIFEST, "more than"),
    ],
)
async def test_a_manifest_that_is_not_what_was_asked_for_is_refused(
    serve: Serve, http: httpx.AsyncClient, wanted: str, body: bytes, kind: str, said: str
) -> None:
    server = await serve(answering(200, body, content_type=kind))

    with pytest.raises(Permanent, match=said):
        await registry(server, http).manifest("app", wanted)


async def test_a_blob_is_checked_while_it_is_fetched(serve: Serve, http: httpx.AsyncClient) -> None:
    server = await serve(answering(200, BLOB))
    into = io.BytesIO()
    await registry(server, http).fetch_blob("app", DIGEST, len(BLOB), into)

    assert into.getvalue() == BLOB


@pytest.mark.parametrize("body", [BLOB[:-1], BLOB + b"x", b"x" * len(BLOB)])
async def test_another_content_is_refused(serve: Serve, http: httpx.AsyncClient, body: bytes) -> None:
    server = await serve(answering(200, body))

    with pytest.raises(Permanent, match="is not what the manifest says"):
        await registry(server, http).fetch_blob("app", DIGEST, len(BLOB), io.BytesIO())


@pytest.mark.parametrize(
    ("status", "error", "after"),
    [(500, DependencyDown, None), (503, DependencyDown, None), (408, DependencyDown, None), (429, Retryable, 7.0)],
)
async def test_what_may_pass_is_tried_again(
    serve: Serve, http: httpx.AsyncClient, status: int, error: type[Retryable], after: float | None
) -> None:
    server = await serve(answering(status, retry_after="7"))

    with pytest.raises(error) as caught:
        await registry(server, http).manifest("app", "1")
    assert caught.value.after == after


async def test_a_registry_that_does_not_answer_is_down_and_named(http: httpx.AsyncClient) -> None:
    gone = Registry(RegistryAccess(address="127.0.0.1:1"), http)

    with pytest.raises(DependencyDown, match=r"registry 127\.0\.0\.1:1 does not answer"):
        await gone.manifest("app", "1")


async def test_a_login_that_is_refused_says_what_to_check_and_not_the_password(
    serve: Serve, http: httpx.AsyncClient, login: dict[str, object]
) -> None:
    server = await serve(answering(401, www_authenticate='Basic realm="x"'))

    with pytest.raises(Permanent, match="check user, password_file") as caught:
        await registry(server, http, **login).manifest("app", "1")
    assert PASSWORD not in str(caught.value)


async def test_a_registry_that_wants_a_login_says_what_to_set(serve: Serve, http: httpx.AsyncClient) -> None:
    server = await serve(answering(401, www_authenticate='Basic realm="x"'))

    with pytest.raises(Permanent, match="wants a login; set user and password_file"):
        await registry(server, http).manifest("app", "1")


async def test_a_token_is_fetched_from_the_registrys_own_service_and_kept(
    serve: Serve, http: httpx.AsyncClient, login: dict[str, object]
) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/token":
            assert request.query.getall("scope") == ["repository:app:pull"]
            return web.json_response({"token": "t0k3n"})
        if request.headers.get("authorization") != "Bearer t0k3n":
            realm = f'Bearer realm="http://{request.host}/token",service="x"'
            return web.Response(status=401, headers={"www-authenticate": realm})
        return web.Response(body=b"{}", content_type=OCI_MANIFEST)

    server = await serve(handler)
    client = registry(server, http, **login)
    await client.manifest("app", "1")
    await client.manifest("app", "2")

    assert [path for _, path, _ in server.seen] == [
        *("/v2/app/manifests/1", "/token", "/v2/app/manifests/1", "/v2/app/manifests/2"),
    ]
    assert [said.partition(" ")[0] for _, _, said in server.seen] == ["", "Basic", "Bearer", "Bearer"]


async def test_a_login_never_goes_where_an_answer_points(
    serve: Serve, http: httpx.AsyncClient, login: dict[str, object]
) -> None:
    thief = await serve(answering(200, b'{"token": "x"}'))
    challenge = f'Bearer realm="http://{thief.address}/token",service="x"'
    server = await serve(answering(401, www_authenticate=challenge))

    with pytest.raises(Permanent, match="token_hosts"):
        await registry(server, http, **login).manifest("app", "1")
    assert thief.seen == []


async def test_a_redirect_is_followed_without_the_login(
    serve: Serve, http: httpx.AsyncClient, login: dict[str, object]
) -> None:
    storage = await serve(answering(200, BLOB))

    async def handler(request: web.Request) -> web.Response:
        if "authorization" not in request.headers:
            return web.Response(status=401, headers={"www-authenticate": 'Basic realm="x"'})
        return web.Response(status=307, headers={"location": f"http://{storage.address}/blob?sig=x"})

    server = await serve(handler)
    await registry(server, http, **login).fetch_blob("app", DIGEST, len(BLOB), io.BytesIO())

    assert storage.seen == [("GET", "/blob", "")]


async def test_an_upload_is_not_sent_to_another_host(serve: Serve, http: httpx.AsyncClient) -> None:
    thief = await serve(answering(201))

    async def handler(request: web.Request) -> web.Response:
        if request.method == "HEAD":
            return web.Response(status=404)
        return web.Response(status=202, headers={"location": f"http://{thief.address}/upload"})

    server = await serve(handler)
    with pytest.raises(Permanent, match="another host"):
        await registry(server, http).push_blob("app", DIGEST, len(BLOB), io.BytesIO(BLOB), ())
    assert thief.seen == []


@pytest.mark.parametrize(
    ("address", "realm", "may"),
    [
        ("registry.example", "https://registry.example/token", True),
        ("registry.example", "https://auth.registry.example/token", False),
        ("quay.registry.example", "https://registry.example/token", True),
        ("docker.io", "https://auth.docker.io/token", True),
        ("registry.example", "http://registry.example/token", False),
        ("registry.example", "https://evil.example/token", False),
        ("registry.example", "https://registry.example.evil.example/token", False),
        ("registry.example", "https://example/token", False),
        ("registry.example", "https://user:x@registry.example/token", False),
        ("127.0.0.1:5000", "http://127.0.0.1:5000/token", True),
        ("127.0.0.1:5000", "http://127.0.0.1:5001/token", False),
        ("registry.example", "", False),
    ],
)
def test_only_what_belongs_to_the_registry_gets_its_login(address: str, realm: str, may: bool) -> None:
    assert may_login(RegistryAccess(address=address), realm) is may
