"""A local instance: a bare Git repository with a first commit, and the settings of all services around it.

Owns what `towline up` makes where there is nothing yet. Rules: what is there is used as it is, never overwritten;
an instance that was made only half is no instance, because its settings file is written last; one process at a time
runs an instance.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from towline.errors import BadInput
from towline_cli.instances import CONFIG, READY, folder
from towline_cli.lab import processes
from towline_cli.lab.network import free_port, seed_of

BRANCH = "main"
CHANNEL = "local"
IDENTITY = {
    "GIT_AUTHOR_NAME": "Towline",
    "GIT_AUTHOR_EMAIL": "towline@localhost",
    "GIT_COMMITTER_NAME": "Towline",
    "GIT_COMMITTER_EMAIL": "towline@localhost",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}
STARTER = """# A new repository

Changes arrive as pushes to `refs/heads/for/main/<topic>`, are tested as `.towline.yaml` says, and land on `main`.
"""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the instance is told of the world; None where there is none."""

    registry: str | None = None
    kubeconfig: Path | None = None
    bus: str | None = None
    webhook: str | None = None
    kustomize: Path | None = None


def write_starter(tree: Path) -> None:
    """The first commit of an instance that nobody gave another one."""
    (tree / "README.md").write_text(STARTER, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class LocalInstance:
    name: str

    @property
    def folder(self) -> Path:
        return folder(self.name)

    @property
    def config(self) -> Path:
        return self.folder / CONFIG

    @property
    def repository(self) -> Path:
        return self.folder / "git" / "app.git"

    @property
    def log(self) -> Path:
        return self.folder / "towline.log"

    @property
    def ready(self) -> Path:
        """Holds the health address while every service reads its topics."""
        return self.folder / READY

    @property
    def registry(self) -> Path:
        """Images and configuration of the instance's own registry, where it has one."""
        return self.folder / "registry"

    @property
    def _demo_mark(self) -> Path:
        return self.folder / "made-by-demo"

    def exists(self) -> bool:
        return self.config.exists()

    @property
    def is_disposable(self) -> bool:
        """Whether nobody keeps work in it: the demo made it."""
        return self._demo_mark.exists()

    def free_port(self, purpose: str) -> int:
        """A free port, the same one for the same instance and purpose as long as nobody takes it."""
        return free_port((), seed_of(f"{self.folder}/{purpose}"))

    def create(
        self, around: Surroundings, content: Callable[[Path], None] = write_starter, *, disposable: bool = False
    ) -> None:
        """Makes repository and settings; `content` writes the first commit's files. What a half-made one left goes."""
        if self.exists():
            raise BadInput(f"instance {self.name!r} is there already, in {self.folder}")
        shutil.rmtree(self.repository, ignore_errors=True)
        # Others may pass through but not look: jailed children run under ids of their own.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        if disposable:
            self._demo_mark.touch()
        self._first_commit(content)
        staged = self.config.with_name(f".{CONFIG}")
        # The URL of a channel is a secret, and so is the path of a kubeconfig to whoever should not have it.
        staged.touch(mode=0o600)
        staged.write_text(_HEAD + yaml.safe_dump(self._settings(around), sort_keys=False), encoding="utf-8")
        staged.replace(self.config)

    def _first_commit(self, content: Callable[[Path], None]) -> None:
        with tempfile.TemporaryDirectory(prefix="towline-") as scratch:
            tree = Path(scratch)
            content(tree)
            _git(tree, "init", "--quiet", f"--initial-branch={BRANCH}")
            _git(tree, "add", "--all")
            _git(tree, "commit", "--quiet", "--message=Begin")
            _git(tree, "init", "--quiet", "--bare", f"--initial-branch={BRANCH}", str(self.repository))
            _git(tree, "push", "--quiet", str(self.repository), f"HEAD:refs/heads/{BRANCH}")

    def _settings(self, around: Surroundings) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "bus": around.bus or f"sqlite:///{self.folder / 'bus.db'}",
            "data": str(self.folder / "data"),
            "listen": f"127.0.0.1:{self.free_port('health')}",
            "git_watcher": {
                "listen": f"127.0.0.1:{self.free_port('hints')}",
                "repositories": [{"url": str(self.repository), "branches": [BRANCH]}],
            },
        }
        kustomize = {"kustomize": str(around.kustomize)} if around.kustomize else {}
        if kustomize:
            settings["ci_runner"] = dict(kustomize)
        if around.registry:
            settings["image_builder"] = {"registry": {"address": around.registry}}
        if around.kubeconfig:
            settings["reconciler"] = {"kubeconfig": str(around.kubeconfig), "cluster": "local", **kustomize}
        if around.webhook:
            channel = {"kind": "webhook", "url": around.webhook, "allow_private": True}
            settings["notifier"] = {"channels": {CHANNEL: channel}}
        return settings

    # One process at a time

    @contextmanager
    def only(self) -> Iterator[None]:
        """Inside, nobody else runs this instance; raises BadInput when somebody does."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        with self._lock.open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(
                    f"instance {self.name!r} runs already{self._runner_phrase()}; stop it with "
                    f"`towline down --name {self.name}`, or name another one with --name"
                ) from None
            handle.truncate(0)
            handle.write(json.dumps({"pid": os.getpid(), "start": processes.start_of(os.getpid())}))
            handle.flush()
            try:
                yield
            finally:
                handle.truncate(0)

    @property
    def _lock(self) -> Path:
        return self.folder / "lock"

    def runner(self) -> processes.Started | None:
        """The process that runs this instance now."""
        try:
            told = json.loads(self._lock.read_text(encoding="ascii"))
            found = processes.Started("towline", int(told["pid"]), int(told["start"]), grace=15.0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if processes.is_alive(found) else None

    def _runner_phrase(self) -> str:
        found = self.runner()
        return f" (process {found.pid})" if found else ""

    def stop(self) -> list[str]:
        """Drains and ends the process that runs this instance; returns what was stopped, one phrase each."""
        found = self.runner()
        if found is None or not processes.stop(found):
            return []
        self.ready.unlink(missing_ok=True)
        return [f"process towline ({found.pid})"]

    def remove(self) -> list[str]:
        """As `stop`, and takes the folder away: repository, log of events and settings with it."""
        done = self.stop()
        if self.folder.exists():
            shutil.rmtree(self.folder)
            done.append(f"folder {self.folder}")
        return done


_HEAD = "# Written once by `towline up`; it is yours to edit. docs/settings.md explains every key.\n"


def _git(tree: Path, *words: str) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tree), **IDENTITY}
    done = subprocess.run(["git", *words], cwd=tree, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BadInput(f"git {words[0]} failed: {done.stderr.strip()}")
