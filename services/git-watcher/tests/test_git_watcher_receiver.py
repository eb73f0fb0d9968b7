"""The receiver of hints: who may speak, and what is durable before it is accepted. Settings and names beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from pydantic import ValidationError

from towline.bus.port import BusDown
from towline.errors import BadInput
from towline.events import Event
from towline_git_watcher import secret
from towline_git_watcher.change import change_of, target_of
from towline_git_watcher.receiver import MAX_BYTES, Receiver
from towline_git_watcher.settings import GitWatcherSettings, RepositorySettings

KEY, REPO = "5ec4e7" * 8, "localhost/app"
BODY = b"1 2\nold new refs/heads/for/main/x\n"


class Inbox:
    """A source that remembers, or is away."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, str]] = []
        self.away = False

    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        if self.away:
            raise BusDown("away")
        self.emitted.append((key, id_basis))
        return "id"


@asynccontextmanager
async def listening(inbox: Inbox) -> AsyncIterator[str]:
    receiver, stop = Receiver("127.0.0.1:0", {REPO: KEY}), asyncio.Event()
    task = asyncio.create_task(receiver.run(inbox, stop))
    await receiver.started.wait()
    assert receiver.address is not None
    yield f"http://127.0.0.1:{receiver.address[1]}/hints/plain"
    stop.set()
    await task


async def post(url: str, body: bytes = BODY, repo: str = REPO, signature: str | None = None) -> int:
    given = secret.hint_signature(KEY, repo, body) if signature is None else signature
    headers = {"X-Towline-Repository": repo, "X-Towline-Signature": f"sha256={given}"}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status


async def test_a_signed_hint_is_in_the_inbox_before_it_is_accepted() -> None:
    inbox = Inbox()
    async with listening(inbox) as url:
        assert await post(url) == 202
        assert await post(url) == 202
        assert await post(url, BODY + b"2") == 202
        inbox.away = True
        assert await post(url) == 503
    assert [key for key, _ in inbox.emitted] == [REPO] * 3
    assert inbox.emitted[0] == inbox.emitted[1] != inbox.emitted[2]


async def test_whoever_cannot_sign_is_refused_and_learns_nothing() -> None:
    inbox = Inbox()
    async with listening(inbox) as url:
        assert await post(url, signature="0" * 64) == 401
        assert await post(url, signature="") == 401
        assert await post(url, signature="ø") == 401
        assert await post(url, signature=secret.hint_signature(KEY, REPO, b"other")) == 401
        assert await post(url, repo="localhost/other") == 401
        nobody = secret.hint_signature("0" * 64, "localhost/other", BODY)
        assert await post(url, repo="localhost/other", signature=nobody) == 401
        assert await post(url, b"x" * (MAX_BYTES + 1)) == 413
    assert inbox.emitted == []


async def test_headers_that_are_no_text_are_refused_like_any_other() -> None:
    """They ended in an error of the server, with a trace in its log, for whoever could connect."""
    async with listening(Inbox()) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].split("/")[0]))
        for name in (b"X-Towline-Repository", b"X-Towline-Signature"):
            writer.write(b"POST /hints/plain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + name + b": \xff\r\n\r\n")
            assert b" 401 " in await reader.readline()
            await reader.readuntil(b"does not fit\n")
        writer.close()
        await writer.wait_closed()


def test_a_damaged_secret_is_refused_and_never_taken_for_a_short_one(tmp_path: Path) -> None:
    """A kill between making the file and writing it left an empty secret, from which everybody could make the keys."""
    secret.load(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["secret"]
    for damaged in ("", "\n", "5ec4e7\n"):
        (tmp_path / "secret").write_text(damaged)
        with pytest.raises(BadInput, match="remove it to have another one made"):
            secret.load(tmp_path)


def test_the_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    first = secret.load(tmp_path)
    (tmp_path / "secret").chmod(0o644)
    assert secret.load(tmp_path) == first
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert secret.repository_key(first, "a") != secret.repository_key(first, "b")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"url": "ext::sh -c id"}, "no address Towline uses"),
        ({"url": "/srv/a.git", "branches": []}, "at least 1"),
        ({"url": "/srv/a.git", "branches": ["for/x"]}, "where changes are pushed"),
        ({"url": "/srv/a.git", "branches": ["-x"]}, "without refs/heads/"),
        ({"url": "/srv/a.git", "branches": ["main", "main"]}, "stands twice"),
        ({"url": "/srv/a.git", "poll": "often"}, "a duration is"),
        ({"url": "https://git.example/a.git", "hooks": True}, "on this host"),
        ({"url": "/srv/a.git", "branch": "main"}, "Extra inputs"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        RepositorySettings.model_validate(given)


def test_one_repository_stands_once_and_an_address_has_a_port() -> None:
    with pytest.raises(ValidationError, match="are the same repository"):
        GitWatcherSettings.model_validate({"repositories": [{"url": "/srv/a.git"}, {"url": "file:///srv/a"}]})
    with pytest.raises(ValidationError, match="expected host:port"):
        GitWatcherSettings.model_validate({"listen": "everywhere"})
    assert GitWatcherSettings(listen=None).listen is None
    assert RepositorySettings(url="/srv/a.git").with_hooks
    assert not RepositorySettings(url="https://git.example/a.git").with_hooks


def test_a_changes_name_tells_branch_and_topic_apart() -> None:
    branches = ("main", "release", "release/1.0")
    assert change_of("r", "refs/heads/for/main/a/b", branches) == "r!a/b"
    assert change_of("r", "refs/heads/for/release/1.0/x", branches) == "r!release/1.0:x"
    assert change_of("r", "refs/heads/for/release/x", branches) == "r!release:x"
    for other in ("refs/heads/main", "refs/heads/for/main", "refs/heads/for/next/x", "refs/heads/for/main/-x"):
        assert target_of(other, branches) is None
