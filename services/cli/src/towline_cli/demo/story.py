"""The story that the demo tells, step by step. Everything it says was read back from Git, the log or the cluster."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from towline.bus.port import Bus
from towline.errors import TowlineError
from towline.events import (
    BuildFinished,
    CandidateCreated,
    CandidateRejected,
    ChangeMerged,
    DriftRepaired,
    Event,
    PipelineRunFinished,
    ServiceDeployed,
    ServiceUpgraded,
    SyncFinished,
)
from towline.observe import Log
from towline_cli.demo.screen import Screen
from towline_cli.demo.workplace import Refused, Workplace
from towline_cli.show import change_lines, short_names, trace_lines
from towline_cli.view import progress
from towline_cli.view.facts import read_facts

E = TypeVar("E", bound=Event)
PATIENCE = 90.0
"""Seconds that a step may take before the demo says which one hangs."""


class NotAsPromised(TowlineError):
    """Something the demo promises did not happen; the message says what was seen instead."""


class Story:
    def __init__(self, screen: Screen, bus: Bus, workplace: Workplace, kubectl: list[str], partitions: int) -> None:
        self._screen = screen
        self._bus = bus
        self._log = Log(bus, partitions=partitions)
        self._work = workplace
        self._kubectl = kubectl
        self._partitions = partitions

    async def tell(self) -> None:
        await self._a_change_goes_through()
        await self._bad_changes_are_refused()
        await self._drift_is_repaired()
        await self._timelines()

    # -- the good change ----------------------------------------------------------------------------------------

    async def _a_change_goes_through(self) -> None:
        self._screen.heading("A change goes through: git push origin HEAD:refs/heads/for/main/polite")
        with self._screen.doing("the application is in the cluster, with no pods yet") as note:
            first = await self._log.wait_for(ServiceDeployed, timeout=PATIENCE)
            note.text = f"{self._revision(first.revision)}"
        edits = {
            "app.py": ('return f"hello, {name}"', 'return f"hello, {name.strip()}"'),
            "deploy/deployment.yaml": ("replicas: 0", "replicas: 1"),
        }
        head = self._work.commit("Greet politely, and run one pod", edits)
        with self._screen.doing("git-watcher: pushed, and merged with main as a candidate") as note:
            self._work.push("refs/heads/for/main/polite")
            candidate = await self._comes(CandidateCreated, head)
            note.text = candidate.candidate[:12]
        with self._screen.doing("ci-runner: tested in a sandbox, its manifests checked") as note:
            note.text = (await self._comes(PipelineRunFinished, head)).verdict
        with self._screen.doing("image-builder: image built without network, pushed") as note:
            built = await self._comes(BuildFinished, head)
            note.text = ", ".join(f"{image.name}@{image.digest[:19]}…" for image in built.images)
        with self._screen.doing("git-watcher: digest written, main moved") as note:
            merged = await self._comes(ChangeMerged, head)
            note.text = f"main is {merged.landed[:12]}"
        with self._screen.doing("reconciler: applied to the cluster"):
            await self._log.wait_for(SyncFinished, lambda sync: sync.revision == merged.landed, timeout=PATIENCE)
        with self._screen.doing("reconciler: the pod is Running with the digest Git names") as note:
            await self._log.wait_for(ServiceUpgraded, lambda up: up.revision == merged.landed, timeout=PATIENCE)
            note.text = self._digest_is_the_same()

    async def _comes(self, event: type[E], head: str) -> E:
        """The first of these of the change with this head; raises NotAsPromised when it is rejected instead."""

        def ends(each: Event) -> bool:
            return isinstance(each, event | CandidateRejected) and getattr(each, "head", "") == head

        found = await self._log.wait_for(Event, ends, timeout=PATIENCE)
        if isinstance(found, event):
            return found
        assert isinstance(found, CandidateRejected)
        said = "; ".join(str(problem) for problem in found.problems)
        raise NotAsPromised(f"the good change was rejected: {found.reason}: {said}")

    async def _rejected(self, head: str) -> CandidateRejected:
        return await self._log.wait_for(CandidateRejected, lambda event: event.head == head, timeout=PATIENCE)

    def _digest_is_the_same(self) -> str:
        kustomization = self._work.git("show", "refs/heads/main:deploy/kustomization.yaml", cwd=self._work.remote)
        in_git = next(
            (line.split("digest:")[1].strip() for line in kustomization.splitlines() if "digest:" in line), ""
        )
        pods = json.loads(self._cluster("get", "pods", "--selector", "app=hello", "--output", "json"))["items"]
        running = [
            status["imageID"].rpartition("@")[2]
            for pod in pods
            for status in pod["status"].get("containerStatuses", ())
            if pod["status"]["phase"] == "Running"
        ]
        if not in_git or in_git not in running:
            raise NotAsPromised(
                f"Git names {in_git or 'no digest'}, the cluster runs {', '.join(running) or 'nothing'}"
            )
        return f"Git and pod: {in_git[:19]}…"

    # -- the bad ones -------------------------------------------------------------------------------------------

    async def _bad_changes_are_refused(self) -> None:
        self._screen.heading("Bad changes are refused, and main does not move")
        before = self._work.main()
        bad: Mapping[str, tuple[str, dict[str, tuple[str, str]]]] = {
            "failing-test": ("Break the greeting", {"app.py": ("hello, ", "goodbye, ")}),
            "invalid-manifest": ("Ask for three pods", {"deploy/deployment.yaml": ("replicas: 1", "replicas: three")}),
            "unreadable-config": ("Break .towline.yaml", {".towline.yaml": ("jobs:\n", "jobs: [\n")}),
        }
        for topic, (title, edits) in bad.items():
            head = self._work.commit(title, edits)
            with self._screen.doing(f"a change with: {topic.replace('-', ' ')}") as note:
                self._work.push(f"refs/heads/for/main/{topic}")
                rejected = await self._rejected(head)
                note.text = "refused"
            await self._show_status(rejected.change)
        self._work.commit("Straight to main", {"app.py": ("hello, ", "hi, ")})
        with self._screen.doing("a push directly to main") as note:
            try:
                self._work.push("refs/heads/main")
            except Refused as refused:
                said, note.text = str(refused), "refused by the hook"
            else:
                raise NotAsPromised("a push directly to main was accepted")
        for line in [line for line in said.splitlines() if line.startswith("remote:")]:
            self._screen.line(line.removeprefix("remote:").strip())
        if self._work.main() != before:
            raise NotAsPromised("main has moved")
        self._screen.line(f"main is still {before[:12]}")

    async def _show_status(self, change: str) -> None:
        facts = await read_facts(self._bus, self._partitions)
        for line in change_lines(progress.changes(facts)[change], short_names(facts)):
            self._screen.line(line)

    # -- drift --------------------------------------------------------------------------------------------------

    async def _drift_is_repaired(self) -> None:
        self._screen.heading("Somebody changes the cluster by hand: kubectl scale deployment hello --replicas=3")
        await self._log.read()
        before = self._log.all(DriftRepaired)
        with self._screen.doing("the drift is repaired") as note:
            self._cluster("scale", "deployment", "hello", "--replicas=3")
            repaired = await self._log.wait_for(DriftRepaired, lambda event: event not in before, timeout=PATIENCE)
            if repaired.fields != ("spec.replicas",):
                raise NotAsPromised(f"another drift was repaired: {repaired.object} {', '.join(repaired.fields)}")
            replicas = self._cluster("get", "deployment", "hello", "--output", "jsonpath={.spec.replicas}")
            if replicas != "1":
                raise NotAsPromised(f"the deployment asks for {replicas} pods, Git says 1")
            seconds = repaired.seconds
            note.text = f"{seconds * 1000:.0f} ms after the watch told; replicas: {replicas} again"

    def _cluster(self, *args: str) -> str:
        done = subprocess.run([*self._kubectl, *args], capture_output=True, text=True)
        if done.returncode != 0:
            raise NotAsPromised(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout.strip()

    @staticmethod
    def _revision(commit: str) -> str:
        return f"revision {commit[:12]}"

    # -- the end ------------------------------------------------------------------------------------------------

    async def _timelines(self) -> None:
        facts = await read_facts(self._bus, self._partitions)
        self._screen.heading("The timeline of every change (towline trace <commit>)")
        for change in progress.changes(facts):
            for line in trace_lines(facts, change, short_names(facts)):
                self._screen.line(line)
            self._screen.line("")


def kubectl_command(program: Path, kubeconfig: Path) -> list[str]:
    return [str(program), "--kubeconfig", str(kubeconfig), "--namespace", "default"]
