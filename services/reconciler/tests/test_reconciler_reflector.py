"""The watch against an API server that answers as real ones do on a bad day: 410, 429, cut lines, pages, silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from towline_reconciler.cluster.client import Cluster
from towline_reconciler.cluster.login import login
from towline_reconciler.cluster.reflector import Reflector

PATH = "/api/v1/configmaps"
Json = dict[str, Any]


def item(name: str, version: int) -> Json:
    return {"metadata": {"name": name, "namespace": "shop", "uid": f"uid-{name}", "resourceVersion": str(version)}}


def line(kind: str, live: Json) -> bytes:
    return orjson.dumps({"type": kind, "object": {"apiVersion": "v1", "kind": "ConfigMap", **live}}) + b"\n"


def expired(code: int = 410) -> bytes:
    return orjson.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": "Expired"}}) + b"\n"


class ApiServer:
    """Lists are answered from `items`; watches and their endings are played from a script, then stay open."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.version = 10
        self.script: list[list[bytes] | web.Response] = []
        self.lists: list[dict[str, str]] = []
        self.watches: list[dict[str, str]] = []
        self.refusals: list[web.Response] = []
        self.closing = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self._watch(request)
        self.lists.append(dict(request.query))
        if self.refusals:
            return self.refusals.pop(0)
        start = int(request.query.get("continue", 0))
        meta: Json = {"resourceVersion": str(self.version)}
        if start + 1 < len(self.items):
            meta["continue"] = str(start + 1)
        body = {"kind": "ConfigMapList", "apiVersion": "v1", "metadata": meta, "items": self.items[start : start + 1]}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches.append(dict(request.query))
        played = self.script.pop(0) if self.script else None
        if isinstance(played, web.Response):
            return played
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in played or ():
            await response.write(chunk)
        if played is None:
            await self.closing.wait()
        return response


class Told:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []
        self.bugs: list[Exception] = []
        self.more = asyncio.Condition()

    def changed(self, live: Json) -> None:
        if self.bugs:
            raise self.bugs.pop()
        self._note(("changed", live["metadata"]["name"], live["metadata"]["resourceVersion"]))

    def deleted(self, live: Json) -> None:
        self._note(("deleted", live["metadata"]["name"], live["kind"]))

    def listed(self) -> None:
        self._note(("listed", "", ""))

    def _note(self, what: tuple[str, str, str]) -> None:
        self.seen.append(what)
        self._waker = asyncio.ensure_future(self._wake())

    async def _wake(self) -> None:
        async with self.more:
            self.more.notify_all()

    async def until(self, fits: Callable[[], bool]) -> None:
        async with asyncio.timeout(10), self.more:
            await self.more.wait_for(fits)


@asynccontextmanager
async def followed(server: ApiServer, folder: Path) -> AsyncIterator[tuple[Told, Reflector]]:
    app = web.Application()
    app.router.add_get(PATH, server.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        f"""
apiVersion: v1
kind: Config
current-context: c
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
clusters: [{{name: c, cluster: {{server: "http://127.0.0.1:{runner.addresses[0][1]}"}}}}]
users: [{{name: u, user: {{token: t0ken}}}}]
"""
    )
    cluster = Cluster(await login(kubeconfig))
    told = Told()
    reflector = Reflector(cluster, PATH, told, selector="towline.dev/application")
    task = asyncio.create_task(reflector.run())
    try:
        yield told, reflector
    finally:
        server.closing.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await cluster.close()
        await runner.cleanup()


@pytest.fixture
async def server() -> ApiServer:
    return ApiServer()


async def test_a_list_is_read_in_pages_and_then_followed(server: ApiServer, tmp_path: Path) -> None:
    server.items = [item("a", 1), item("b", 2), item("c", 3)]
    server.script = [[line("MODIFIED", item("b", 11))]]
    async with followed(server, tmp_path) as (told, reflector):
        await told.until(lambda: ("changed", "b", "11") in told.seen)
        assert [each[:2] for each in told.seen[:4]] == [
            ("changed", "a"),
            ("changed", "b"),
            ("changed", "c"),
            ("listed", ""),
        ]
        assert len(server.lists) == 3
        assert server.lists[0]["labelSelector"] == "towline.dev/application"
        assert reflector.synced.is_set()


async def test_after_an_expired_version_what_was_missed_is_told_deletions_included(
    server: ApiServer, tmp_path: Path
) -> None:
    server.items = [item("a", 1), item("b", 2)]
    server.script = [[expired()]]
    async with followed(server, tmp_path) as (told, _):
        await told.until(lambda: ("listed", "", "") in told.seen)
        server.items = [item("a", 12)]
        await told.until(lambda: ("deleted", "b", "ConfigMap") in told.seen)
        assert ("changed", "a", "12") in told.seen


async def test_410_as_a_status_lists_again_too(server: ApiServer, tmp_path: Path) -> None:
    server.script = [web.Response(status=410, body=b'{"kind":"Status","code":410,"message":"too old"}')]
    async with followed(server, tmp_path) as (told, _):
        await told.until(lambda: told.seen.count(("listed", "", "")) == 2)


async def test_a_line_cut_off_by_the_end_is_no_event_and_the_watch_goes_on_from_the_last_one(
    server: ApiServer, tmp_path: Path
) -> None:
    whole = line("ADDED", item("b", 12))
    server.script = [[line("ADDED", item("a", 11)), whole[:25]], [whole[:9], whole[9:]]]
    async with followed(server, tmp_path) as (told, _):
        await told.until(lambda: ("changed", "b", "12") in told.seen)
        assert [each for each in told.seen if each[0] == "changed"] == [("changed", "a", "11"), ("changed", "b", "12")]
        assert [each["resourceVersion"] for each in server.watches[:2]] == ["10", "11"]
        assert len(server.lists) == 1


async def test_a_busy_server_is_asked_again_and_the_trouble_is_known_meanwhile(
    server: ApiServer, tmp_path: Path
) -> None:
    server.refusals = [web.Response(status=429, headers={"Retry-After": "0"}, body=b"slow down") for _ in range(2)]
    async with followed(server, tmp_path) as (told, reflector):
        await asyncio.wait_for(reflector.settled.wait(), 10)
        assert reflector.trouble is not None
        assert "busy" in reflector.trouble
        await told.until(lambda: ("listed", "", "") in told.seen)
        assert len(server.lists) == 3


async def test_a_forbidden_list_says_the_servers_own_sentence(server: ApiServer, tmp_path: Path) -> None:
    said = b'{"kind":"Status","code":403,"reason":"Forbidden","message":"configmaps is forbidden: User x cannot list"}'
    server.refusals = [web.Response(status=403, body=said) for _ in range(1)]
    async with followed(server, tmp_path) as (told, reflector):
        await asyncio.wait_for(reflector.settled.wait(), 10)
        assert reflector.trouble == "configmaps is forbidden: User x cannot list"
        assert not reflector.synced.is_set()
        await told.until(lambda: ("listed", "", "") in told.seen)
        assert reflector.synced.is_set()


async def test_a_bug_in_whoever_is_told_ends_no_watch(server: ApiServer, tmp_path: Path) -> None:
    """The watch ended for good and without a word, and what it followed was repaired no more."""
    async with followed(server, tmp_path) as (told, reflector):
        told.bugs.append(KeyError("a bug"))
        server.items = [item("a", 1)]
        await told.until(lambda: ("changed", "a", "1") in told.seen)
        assert len(server.lists) == 2
        assert reflector.trouble is None


async def test_a_bookmark_moves_the_version_and_tells_nothing(server: ApiServer, tmp_path: Path) -> None:
    bookmark = orjson.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "77"}}}) + b"\n"
    server.script = [[bookmark], [line("ADDED", item("a", 78))]]
    async with followed(server, tmp_path) as (told, _):
        await told.until(lambda: ("changed", "a", "78") in told.seen)
        assert server.watches[1]["resourceVersion"] == "77"
        assert told.seen == [("listed", "", ""), ("changed", "a", "78")]
