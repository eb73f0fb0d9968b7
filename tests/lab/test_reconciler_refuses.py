"""What the reconciler refuses, on a real Kubernetes: bad objects by name, hostile repositories whole."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline.bus.port import BusDown
from towline.delivery.model import Source
from towline.events import DriftRepaired, Event, ServiceDeployed, SyncFinished, SyncStarted
from towline.events.base import Outcome
from towline_cli.lab import Instance
from towline_reconciler.agent import Agent
from towline_reconciler.settings import ReconcilerSettings
from towline_reconciler.testing import Ground, Kubectl, SourceRepository, ground, until

pytestmark = pytest.mark.lab
_numbers = itertools.count(1)
WRONG = "apiVersion: v1\nkind: Service\nmetadata: {name: wrong}\nspec: {ports: [{port: 99999}]}\n"
PARCEL = "apiVersion: shop.example/v1\nkind: Parcel\nmetadata: {name: p, namespace: elsewhere}\nspec: {n: 1}\n"
GOOD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: good}\ndata: {value: '1'}\n"


@pytest.fixture
async def here(lab_instance: Instance, tmp_path: Path) -> AsyncIterator[Ground]:
    namespace = f"refuses-{next(_numbers)}"
    settings = ReconcilerSettings(
        cluster="lab",
        kubeconfig=lab_instance.kubeconfig,
        kustomize=str(lab_instance.kustomize),
        namespaces=(namespace,),
        render_seconds=5,
        render_output_mib=1,
        render_memory_mib=128,
    )
    async with ground(tmp_path, Kubectl(lab_instance.kubectl, lab_instance.kubeconfig, namespace), settings) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> SourceRepository:
    return SourceRepository(tmp_path / "git")


async def finished(here: Ground, revision: str) -> SyncFinished:
    return await here.log.wait_for(SyncFinished, lambda sync: sync.revision == revision, timeout=60)


async def test_an_invalid_object_is_named_with_its_file_and_the_others_are_applied(
    here: Ground, source: SourceRepository
) -> None:
    bad = source.push(
        {
            "deploy/good.yaml": GOOD,
            "deploy/typo.yaml": "\n\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: typo}\ndatta: {}\n",
            "deploy/wrong.yaml": WRONG,
            "deploy/unknown.yaml": "apiVersion: nobody.example/v1\nkind: Thing\nmetadata: {name: unknown}\n",
        }
    )
    async with here.reconciler():
        await here.application("shop", source)
        sync = await finished(here, bad)
        assert sync.outcome is Outcome.FAILURE
        assert (sync.applied.created, sync.applied.failed) == (1, 3)
        said = {problem.file: problem for problem in sync.problems}
        assert said["deploy/typo.yaml"].line == 3
        assert "datta" in said["deploy/typo.yaml"].message
        assert "invalid" in said["deploy/wrong.yaml"].message
        assert "serves no kind Thing" in said["deploy/unknown.yaml"].message
        condition = "jsonpath={.status.conditions[?(@.type=='Synced')].status}"
        assert await here.kubectl("get", "application", "shop", "--output", condition) == "False"

        good = source.push({f"deploy/{name}.yaml": None for name in ("typo", "wrong", "unknown")})
        await here.merged(source, good)
        assert (await finished(here, good)).outcome is Outcome.SUCCESS
        await here.log.wait_for(ServiceDeployed)


async def test_a_failed_revision_is_told_once_and_the_last_good_one_stays(
    here: Ground, source: SourceRepository
) -> None:
    source.push({"deploy/good.yaml": GOOD})
    async with here.reconciler():
        await here.application("shop", source, interval="1s")
        await here.log.wait_for(ServiceDeployed)
        bad = source.push({"deploy/good.yaml": GOOD + "  oops\n"})
        await finished(here, bad)
        await here.kubectl("patch", "configmap", "good", "--patch", '{"data":{"value":"by hand"}}')
        await here.log.wait_for(DriftRepaired)
        next = source.push({"deploy/good.yaml": GOOD.replace("'1'", "'2'")})
        await finished(here, next)
    assert [each.revision for each in here.log.all(SyncStarted)].count(bad) == 1


async def test_an_object_of_another_application_is_left_to_it(
    here: Ground, source: SourceRepository, tmp_path: Path
) -> None:
    other = SourceRepository(tmp_path / "other")
    source.push({"deploy/good.yaml": GOOD})
    wanted = other.push({"deploy/good.yaml": GOOD.replace("'1'", "'2'")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        await here.application("rival", other)
        sync = await finished(here, wanted)
        assert "belongs to the application" in sync.problems[0].message
        assert await here.kubectl("get", "configmap", "good", "--output", "jsonpath={.data.value}") == "1"


async def test_an_object_outside_of_the_allowed_namespaces_is_refused(here: Ground, source: SourceRepository) -> None:
    outside = source.push({"deploy/a.yaml": GOOD.replace("name: good", "name: good, namespace: kube-system")})
    async with here.reconciler():
        await here.application("shop", source)
        assert "deploys to" in (await finished(here, outside)).problems[0].message


HOSTILE: dict[str, tuple[dict[str, str | None], str]] = {
    "a symlink out of the repository": (
        {"deploy/kustomization.yaml": "resources: [x.yaml]\n", "deploy/x.yaml": "-> /etc/passwd"},
        "outside of the tree",
    ),
    "a remote base": ({"deploy/kustomization.yaml": "resources: ['https://evil.example/base']\n"}, "remote base"),
    "a base above the repository": (
        {"deploy/kustomization.yaml": "resources: [../../../etc]\n"},
        "out of the repository",
    ),
    "a way through the API server": (
        {"deploy/a.yaml": GOOD.replace("apiVersion: v1", "apiVersion: x/../../api/v1/nodes/n/proxy/v1")},
        "apiVersion 'x/../../api/v1/nodes/n/proxy/v1' is none",
    ),
    "a helm chart": ({"deploy/kustomization.yaml": "helmCharts: [{name: x, repo: 'https://e.example'}]\n"}, "Helm"),
    "an exec plugin": (
        {
            "deploy/kustomization.yaml": "generators: [gen.yaml]\n",
            "deploy/gen.yaml": (
                "apiVersion: v1\nkind: Gen\nmetadata:\n  name: g\n  annotations:\n"
                "    config.kubernetes.io/function: |\n      exec: {path: ./run.sh}\n"
            ),
            "deploy/run.sh": "#!/bin/sh\ntouch /tmp/ran\n",
        },
        "external plugins disabled",
    ),
    "a render without end": (
        {
            "deploy/kustomization.yaml": "resources: [big.yaml]\n",
            "deploy/big.yaml": GOOD.replace("'1'", "y" * 3_000_000),
        },
        "more than 1 MiB",
    ),
    "an alias bomb": (
        {
            "deploy/bomb.yaml": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in itertools.pairwise("abcdefgh"))
        },
        "values once aliases are expanded",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_repository_is_refused_with_a_reason(name: str, here: Ground, source: SourceRepository) -> None:
    files, reason = HOSTILE[name]
    revision = source.push(files)
    async with here.reconciler():
        await here.application("shop", source)
        sync = await finished(here, revision)
        assert sync.outcome is Outcome.FAILURE
        assert reason in sync.problems[0].message, sync.problems
        assert sync.applied.created == 0


async def test_a_repository_that_does_not_answer_is_said_and_followed_once_it_does(
    here: Ground, tmp_path: Path
) -> None:
    late = tmp_path / "late"
    source = SourceRepository(late / "made")
    source.push({"deploy/good.yaml": GOOD})
    hidden = Path(source.url).rename(late / "hidden.git")
    agent = Agent(here.settings, here.host.folder)
    stopping = asyncio.Event()
    running = asyncio.create_task(agent.run(Silent(), stopping))
    try:
        await until(lambda: agent.ready() is None)
        await here.application("shop", source)
        await until(lambda: "does not answer" in (agent.ready() or ""))
        hidden.rename(source.url)
        await until(lambda: agent.ready() is None)
        await here.kubectl("wait", "--for=condition=Ready", "application/shop", "--timeout=30s")
    finally:
        stopping.set()
        await running


class Silent(Source):
    """A bus that is away, until `back` is set; then it takes what is told."""

    def __init__(self) -> None:
        self.back = asyncio.Event()
        self.told: list[Event] = []

    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        if not self.back.is_set():
            raise BusDown("nobody is there")
        self.told.append(event)
        return id_basis


async def test_the_cluster_is_followed_and_repaired_without_the_bus(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/good.yaml": GOOD})
    bus, stopping = Silent(), asyncio.Event()
    agent = Agent(here.settings, here.host.folder)
    running = asyncio.create_task(agent.run(bus, stopping))

    async def value_is(wanted: str) -> bool:
        return await here.kubectl("get", "configmap", "good", "--output", "jsonpath={.data.value}") == wanted

    async def all_is_published() -> bool:
        published = "jsonpath={.status.lastPublished.sync} {.status.lastSync.startedAt}"
        there = (await here.kubectl("get", "application", "shop", "--output", published)).split()
        return len(there) == 2 and there[0] == there[1]

    try:
        await until(lambda: agent.ready() is None)
        await here.application("shop", source, interval="1s")
        await here.kubectl("wait", "--for=condition=Ready", "application/shop", "--timeout=30s")
        await here.kubectl("patch", "configmap", "good", "--patch", '{"data":{"value":"by hand"}}')
        await until(lambda: value_is("1"))
        source.push({"deploy/good.yaml": GOOD.replace("'1'", "'2'")})
        await until(lambda: value_is("2"))
        assert bus.told == []
        bus.back.set()
        await until(all_is_published)
        assert [type(each).__name__ for each in bus.told[:2]] == ["SyncBegan", "SyncEnded"]
        assert "DriftEnded" in {type(each).__name__ for each in bus.told}
    finally:
        stopping.set()
        await running


async def test_a_definition_and_its_objects_come_in_one_revision(
    lab_instance: Instance, tmp_path: Path, source: SourceRepository
) -> None:
    namespace = f"defines-{next(_numbers)}"
    kubectl = Kubectl(lab_instance.kubectl, lab_instance.kubeconfig, namespace)
    definition = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: parcels.shop.example}
spec:
  group: shop.example
  scope: Namespaced
  names: {kind: Parcel, plural: parcels, singular: parcel, listKind: ParcelList}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
    made = source.push(
        {
            "deploy/a-parcel.yaml": PARCEL.replace("elsewhere", f"{namespace}-x"),
            "deploy/b-space.yaml": f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}-x}}\n",
            "deploy/c-definition.yaml": definition,
        }
    )
    settings = ReconcilerSettings(
        cluster="lab", kubeconfig=lab_instance.kubeconfig, kustomize=str(lab_instance.kustomize)
    )
    async with ground(tmp_path, kubectl, settings) as here, here.reconciler():
        await here.application("shop", source)
        sync = await finished(here, made)
        assert (sync.outcome, sync.applied.created) == (Outcome.SUCCESS, 3), sync.problems
        await kubectl(
            "patch", "parcel", "p", f"--namespace={namespace}-x", "--type=merge", "--patch", '{"spec":{"n":2}}'
        )
        await here.log.wait_for(DriftRepaired)
        await kubectl("delete", "application", "shop", "--timeout=30s")
        assert "NotFound" in await kubectl("get", "crd", "parcels.shop.example", check=False)
