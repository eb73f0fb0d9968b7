"""A forge that refuses the login, over real HTTPS: not ready, tried again with back-off, said once."""

from __future__ import annotations

import asyncio
import ssl
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
import trustme
from pydantic import ValidationError

from towline.host import Host
from towline.store import FolderStore
from towline.testing import running
from towline_git_watcher.service import build
from towline_git_watcher.settings import GitWatcherSettings, RepositorySettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from towline.bus.port import Bus
    from towline_git_watcher.testing import Clone

ENOUGH_TRIES = 3


class Forge(ThreadingHTTPServer):
    """Serves a folder of bare repositories by HTTPS, to nobody until `opened` is set."""

    def __init__(self, folder: Path, certificate: trustme.LeafCert) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Door, directory=str(folder)))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(tls)
        self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.opened = threading.Event()
        self.refused = threading.Semaphore(0)
        """Released once for each login that was refused."""

    def handle_error(self, *_: object) -> None:
        """A client that hangs up for the certificate is what one test is about."""


class _Door(SimpleHTTPRequestHandler):
    server: Forge

    def do_GET(self) -> None:
        if self.server.opened.is_set():
            super().do_GET()
            return
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="forge"')
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.server.refused.release()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@contextmanager
def forge_of(clone: Clone, authority: trustme.CA) -> Iterator[tuple[Forge, str]]:
    """The forge and the address of the clone's repository on it."""
    clone.git("update-server-info", cwd=clone.remote)
    forge = Forge(clone.remote.parent, authority.issue_cert("127.0.0.1"))
    thread = threading.Thread(target=forge.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield forge, f"https://127.0.0.1:{forge.server_address[1]}/{clone.remote.name}"
    finally:
        forge.shutdown()
        thread.join()
        forge.server_close()


@pytest.mark.whole_service
async def test_a_refused_login_is_tried_again_said_once_and_mended_when_the_forge_lets_it_in(
    top: Path, bus: Bus, clone: Clone, authority: trustme.CA, caplog: pytest.LogCaptureFixture
) -> None:
    ca_file = top / "ca.pem"
    authority.cert_pem.write_to_path(ca_file)
    with forge_of(clone, authority) as (forge, url):
        watched = RepositorySettings(url=url, ca_file=ca_file, poll="1s")
        watcher = build(
            GitWatcherSettings(repositories=(watched,), listen=None),
            Host(FolderStore(top / "store"), top / "git-watcher"),
        )
        async with running(bus, watcher):
            for _ in range(ENOUGH_TRIES):
                assert await asyncio.to_thread(forge.refused.acquire, timeout=20)
            async with asyncio.timeout(20):
                while "refuses the login" not in (said := watcher.ready() or ""):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert said.startswith(f"the repository {watched.repo} does not exist or refuses the login")

            forge.opened.set()
            async with asyncio.timeout(20):
                while watcher.ready() is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    assert len([each for each in caplog.records if "cannot work with a repository" in each.message]) == 1


async def test_a_forge_whose_certificate_nobody_vouches_for_is_never_spoken_to(
    top: Path, bus: Bus, clone: Clone, authority: trustme.CA
) -> None:
    with forge_of(clone, authority) as (forge, url):
        forge.opened.set()
        watcher = build(
            GitWatcherSettings(repositories=(RepositorySettings(url=url),), listen=None),
            Host(FolderStore(top / "store"), top / "git-watcher"),
        )
        async with running(bus, watcher):
            async with asyncio.timeout(20):
                while "certificate" not in (watcher.ready() or ""):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


def test_an_authority_is_named_for_https_alone(top: Path, authority: trustme.CA) -> None:
    authority.cert_pem.write_to_path(top / "ca.pem")
    with pytest.raises(ValidationError, match="ca_file is for an https:// address alone"):
        RepositorySettings(url="ssh://git@forge.example/app.git", ca_file=top / "ca.pem")
    with pytest.raises(ValidationError, match="does not point to a file"):
        RepositorySettings(url="https://forge.example/app.git", ca_file=top / "no.pem")
