"""For tests of the watcher: a developer's clone, and a running service on a bus with stand-ins for its neighbours.

Real Git and real hooks; the only stand-ins are ci-runner and image-builder, which here pass every candidate through.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from towline import flow
from towline.bus.port import Bus
from towline.delivery.model import Decision, Envelope, Service, State
from towline.events import (
    BuildFinished,
    BuiltImage,
    CandidateCreated,
    CandidateSuperseded,
    Event,
    Outcome,
    PipelineRunFinished,
    Problem,
    Purpose,
    Verdict,
)
from towline.host import Host
from towline.ids import run_id
from towline.service import Process
from towline.store import FolderStore
from towline.testing import Log, running
from towline_git_watcher.service import build
from towline_git_watcher.settings import GitWatcherSettings, RepositorySettings
from towline_git_watcher.state import WatcherState

DIGEST = "sha256:" + "1" * 64
PROJECT = """\
version: 1
jobs:
  unit:
    run: "true"
images:
  hello:
    pins:
      - kustomize: deploy/kustomization.yaml
        image: hello
manifests: [deploy]
"""
KUSTOMIZATION = """\
resources:
  - deployment.yaml  # the application
images:
  # Written when a change lands.
  - name: hello
    newName: registry.example/hello
    newTag: v1 # by hand
"""
FILES = {
    ".towline.yaml": PROJECT,
    "app.py": "print('hello')\n",
    "deploy/kustomization.yaml": KUSTOMIZATION,
    "deploy/deployment.yaml": "kind: Deployment\n",
}


class Refused(Exception):
    """What the server said to a push."""


@dataclass
class Clone:
    """A developer's clone; every command is the real one, with an environment of its own."""

    folder: Path
    remote: Path
    date: int = 1_700_000_000

    def git(self, *args: str, cwd: Path | None = None) -> str:
        self.date += 1
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_DATE": f"{self.date} +0100",
            "GIT_COMMITTER_DATE": f"{self.date} +0100",
            **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in ADA.items()},
        }
        done = subprocess.run(
            ["git", *args], cwd=cwd or self.folder, env=env, capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise Refused(done.stderr)
        return done.stdout.strip()

    def commit(self, title: str, files: Mapping[str, str | None], on: str = "origin/main") -> str:
        """A commit with these files on top of `on`; None deletes one."""
        self.git("fetch", "--quiet", "origin")
        self.git("checkout", "--quiet", "--detach", on)
        for path, content in files.items():
            file = self.folder / path
            if content is None:
                file.unlink()
            else:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", title)
        return self.git("rev-parse", "HEAD")

    def malformed(self) -> str:
        """A commit on main whose author has no address, which `git fsck` calls an error."""
        self.git("fetch", "--quiet", "origin")
        lines = [f"tree {self.git('rev-parse', 'origin/main^{tree}')}", f"parent {self.at('main')}"]
        lines += ["author Eve 1700000000 +0000", "committer Eve <e@x> 1700000000 +0000", "", "Bad", ""]
        file = self.folder.parent / "malformed"
        file.write_text("\n".join(lines))
        return self.git("hash-object", "-t", "commit", "-w", "--literally", str(file))

    def push(self, commit: str, ref: str, *options: str) -> None:
        self.git("push", "--quiet", *options, "origin", f"{commit}:{ref}")

    def at(self, ref: str) -> str:
        return self.git("rev-parse", "--verify", ref, cwd=self.remote)

    def show(self, what: str) -> str:
        return self.git("show", what, cwd=self.remote)


ADA = {"NAME": "Ada Løve", "EMAIL": "ada@example.test"}


def begin(top: Path) -> Clone:
    """A bare repository with one commit on main, and a clone of it."""
    remote, folder = top / "app.git", top / "clone"
    folder.mkdir()
    made = Clone(folder, remote)
    made.git("init", "--quiet", "--bare", "--initial-branch=main", str(remote))
    made.git("init", "--quiet", "--initial-branch=main", ".")
    made.git("remote", "add", "origin", str(remote))
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    made.git("add", "--all")
    made.git("commit", "--quiet", "--message", "Begin")
    made.git("push", "--quiet", "origin", "HEAD:refs/heads/main")
    return made


class Nothing(State):
    pass


@dataclass
class Verdicts:
    """What the stand-ins say: success, unless a candidate's purpose and service have another word here."""

    pipeline: dict[Purpose, Outcome] = field(default_factory=dict)
    build: dict[Purpose, Outcome] = field(default_factory=dict)
    silent: set[Purpose] = field(default_factory=set)

    def runner(self) -> Service[Nothing]:
        return Service(flow.RUNNER, Nothing, self._run)

    def builder(self) -> Service[Nothing]:
        return Service(flow.BUILDER, Nothing, self._build)

    def _run(self, state: Nothing, envelope: Envelope, _: datetime) -> Decision[Nothing]:
        event = envelope.event
        if not isinstance(event, CandidateCreated) or event.purpose in self.silent:
            assert isinstance(event, CandidateCreated | CandidateSuperseded)
            return Decision(state)
        outcome = self.pipeline.get(event.purpose, Outcome.SUCCESS)
        good = outcome is Outcome.SUCCESS
        finished = PipelineRunFinished(
            **_common(event),
            run=run_id(event.candidate, "[]"),
            outcome=outcome,
            verdict=Verdict.VALID if good else Verdict.INVALID,
            problems=() if good else (Problem(message="1 != 2", file="tests.py", line=3, check="unit"),),
        )
        return Decision(state, (finished,))

    def _build(self, state: Nothing, envelope: Envelope, _: datetime) -> Decision[Nothing]:
        event = envelope.event
        if not isinstance(event, CandidateCreated) or event.purpose in self.silent:
            return Decision(state)
        outcome = self.build.get(event.purpose, Outcome.SUCCESS)
        images = tuple(
            BuiltImage(name=image.name, repository=f"registry.example/{image.name}", digest=DIGEST)
            for image in event.images_expected
        )
        return Decision(state, (BuildFinished(**_common(event), outcome=outcome, images=images),))


def _common(event: CandidateCreated) -> dict[str, object]:
    return event.model_dump(include={"repo", "change", "candidate", "head", "source_tree", "purpose"})


@dataclass
class Line:
    """The watcher and its stand-ins, running, with everything they said."""

    bus: Bus
    log: Log
    watcher: Service[WatcherState]
    process: Process
    store: FolderStore

    async def until_ready(self) -> None:
        async with asyncio.timeout(20):
            while self.watcher.ready() is not None:  # noqa: ASYNC110 - `ready` is a question, not an event
                await asyncio.sleep(0.005)

    def said(self, *kinds: type[Event]) -> list[Event]:
        return [each.event for each in self.log.envelopes if isinstance(each.event, kinds)]


@asynccontextmanager
async def line(top: Path, bus: Bus, repository: Path, verdicts: Verdicts, **settings: object) -> AsyncIterator[Line]:
    one = RepositorySettings.model_validate({"url": str(repository), "poll": "1h", **settings})
    store = FolderStore(top / "artifacts")
    watcher = build(GitWatcherSettings(repositories=(one,)), Host(store, top / "git-watcher"))
    async with running(bus, watcher, verdicts.runner(), verdicts.builder()) as process:
        yield Line(bus, Log(bus), watcher, process, store)
