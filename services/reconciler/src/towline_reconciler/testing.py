"""What tests of the reconciler stand on: a real repository to push to, and the service running against a cluster."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from towline import flow, git
from towline.bus.open import open_bus
from towline.bus.port import Bus
from towline.delivery import codec
from towline.delivery.model import Envelope
from towline.events import ChangeMerged
from towline.host import Host
from towline.store import FolderStore
from towline.testing import Log, running
from towline_reconciler.service import build
from towline_reconciler.settings import ReconcilerSettings

_AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.test",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.test",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


async def until(holds: Callable[[], bool | Awaitable[bool]], *, seconds: float = 30.0) -> None:
    """Asks again and again, as a kubelet asks for readiness: what is asked has no event to wait for."""
    async with asyncio.timeout(seconds):
        while True:
            answer = holds()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.02)


class SourceRepository:
    """A bare repository, and a clone of it to write with."""

    def __init__(self, folder: Path) -> None:
        self.url = str(folder / "app.git")
        self._clone = folder / "clone"
        folder.mkdir(parents=True, exist_ok=True)
        self._git("init", "--quiet", "--bare", "--initial-branch=main", self.url, cwd=folder)
        self._git("init", "--quiet", "--initial-branch=main", str(self._clone), cwd=folder)

    @property
    def repo(self) -> str:
        return git.repo_id(self.url)

    def push(self, files: Mapping[str, str | None], *, change: str | None = None, branch: str = "main") -> str:
        """Write these files (None removes one, `-> target` makes a symlink), push; returns the commit."""
        for name, content in files.items():
            path = self._clone / name
            path.unlink(missing_ok=True)
            if content is None:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                path.symlink_to(content.removeprefix("-> "))
            else:
                path.write_text(content)
        self._git("add", "--all", ".")
        message = "Change something" + (f"\n\nTowline-Change: {change}" if change else "")
        self._git("commit", "--quiet", "--allow-empty", "--message", message)
        self._git("push", "--quiet", "--force", self.url, f"HEAD:refs/heads/{branch}")
        return self._git("rev-parse", "HEAD")

    def _git(self, *args: str, cwd: Path | None = None) -> str:
        env = {"PATH": os.environ["PATH"], **_AUTHOR}
        done = subprocess.run(["git", *args], cwd=cwd or self._clone, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"git {args[0]}: {done.stderr}")
        return done.stdout.strip()


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Somebody else at the cluster."""

    program: Path
    kubeconfig: Path
    namespace: str

    async def __call__(self, *args: str, stdin: str | None = None, check: bool = True) -> str:
        return await asyncio.to_thread(self._run, args, stdin, check)

    def _run(self, args: tuple[str, ...], stdin: str | None, check: bool) -> str:
        command = [str(self.program), "--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr}")
        return (done.stdout if check else done.stdout + done.stderr).strip()


class Ground:
    """One bus, one data folder, one namespace: the reconciler can be started and stopped on it again and again."""

    def __init__(self, folder: Path, kubectl: Kubectl, settings: ReconcilerSettings, bus: Bus) -> None:
        self.kubectl = kubectl
        self.settings = settings
        self.bus = bus
        self.log = Log(bus)
        self.host = Host(FolderStore(folder / "artifacts"), folder / "reconciler")
        self.host.folder.mkdir(parents=True)
        self._merged = 0

    @asynccontextmanager
    async def reconciler(self) -> AsyncIterator[None]:
        """Running, logged in, and with the CRD in place."""
        service = build(self.settings, self.host)
        async with running(self.bus, service):
            await until(lambda: service.ready() is None)
            yield

    async def application(self, name: str, source: SourceRepository, **spec: object) -> str:
        """Make one that follows `deploy` of main; `spec` adds fields. Returns its id in events."""
        import yaml

        body = {
            "apiVersion": "towline.dev/v1alpha1",
            "kind": "Application",
            "metadata": {"name": name},
            "spec": {"interval": "1h", "source": {"url": source.url, "path": "deploy"}, **spec},
        }
        await self.kubectl("apply", "--filename", "-", stdin=yaml.safe_dump(body))
        return f"{self.settings.cluster}/{self.kubectl.namespace}/{name}"

    async def merged(self, source: SourceRepository, landed: str, change: str = "shop!topic") -> None:
        """Publish what git-watcher publishes after a landing."""
        self._merged += 1
        event = ChangeMerged(
            repo=source.repo,
            change=change,
            target="main",
            head=landed,
            candidate=landed,
            landed=landed,
            previous=landed,
            source_tree=landed,
        )
        about = Envelope(
            event, f"merged-{self._merged}-{landed}", "/towline/git-watcher", datetime.now(UTC), event.repo
        )
        await self.bus.publish([codec.encode(about, flow.stream_of(ChangeMerged).topic)])


@asynccontextmanager
async def ground(folder: Path, kubectl: Kubectl, settings: ReconcilerSettings) -> AsyncIterator[Ground]:
    """In a namespace of its own, which goes again with all that is in it."""
    namespace = kubectl.namespace
    await kubectl("create", "namespace", namespace)
    bus = await open_bus(f"sqlite:///{folder}/bus.db", partitions=flow.PARTITIONS)
    try:
        yield Ground(folder, kubectl, settings, bus)
    finally:
        await bus.close()
        await _free_of_finalizers(kubectl)
        await kubectl("delete", "namespace", namespace, "--wait=false")


async def _free_of_finalizers(kubectl: Kubectl) -> None:
    """No agent runs any more that could take them away."""
    for name in (await kubectl("get", "applications", "--output", "name", check=False)).split():
        if name.startswith("application"):
            await kubectl("patch", name, "--type=merge", "--patch", '{"metadata":{"finalizers":null}}')
            await kubectl("delete", name, "--wait=false")
