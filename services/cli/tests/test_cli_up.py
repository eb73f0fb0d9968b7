"""The Application of an instance: tried until it is taken, and its trouble said where people look."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from aiohttp import web

from towline_cli import compose, up
from towline_cli.application import Applying, application
from towline_cli.local import LocalInstance
from towline_cli.settings import read

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: it
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
clusters: [{{name: it, cluster: {{server: "http://127.0.0.1:{port}"}}}}]
users: [{{name: it, user: {{token: t}}}}]
"""


async def test_an_application_that_is_refused_is_said_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A refusal ended the attempt for good, and all that was to be seen was that nothing was deployed."""
    answers = [403, 403, 200]
    refused = asyncio.Event()

    async def apply(_: web.Request) -> web.Response:
        status = answers.pop(0)
        if len(answers) == 1:
            refused.set()
        return web.json_response({"message": "no right to do this"} if status == 403 else {}, status=status)

    app = web.Application()
    app.router.add_patch("/{path:.*}", apply)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG.format(port=runner.addresses[0][1]))
    applying = Applying(kubeconfig, application("shop", tmp_path))
    assert applying.waits() == "the Application shop is not in the cluster"

    with caplog.at_level(logging.ERROR):
        task = asyncio.create_task(applying.run())
        await asyncio.wait_for(refused.wait(), 10)
        assert applying.waits() == "the Application shop is not in the cluster: no right to do this"
        await asyncio.wait_for(task, 10)

    assert applying.waits() is None
    assert [record.message for record in caplog.records] == ["the Application is refused; it is tried again"]
    await runner.cleanup()


def test_a_new_instance_renders_with_the_kustomize_that_was_built_here(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`towline validate` took it, and the server behind `towline up` refused every kustomization for want of one."""
    (tmp_path / "cache" / "bin").mkdir(parents=True)
    built = tmp_path / "cache" / "bin" / "kustomize"
    built.touch()
    monkeypatch.setenv("TOWLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda name: None if name == "kustomize" else f"/usr/bin/{name}")
    instance = LocalInstance("fresh")
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()

    up.make(instance, None, "127.0.0.1:5000", kubeconfig)

    settings = read(instance.config, {})
    assert (settings.ci_runner.kustomize, Path(str(settings.reconciler.kustomize))) == (built, built)


async def test_whoever_cannot_be_told_that_all_has_started_ends_it(shop: Path) -> None:
    """The error was swallowed: `towline up` ran on and whoever had started it waited in vain."""

    def full(_: str) -> None:
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        await asyncio.wait_for(compose.run(["notifier"], read(shop, {}), on_started=full), 10)
