"""The reconciler on a real Kubernetes: what Git says becomes what runs, and stays so."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline.events import (
    DriftDetected,
    DriftRepaired,
    HealthChanged,
    IncidentDetected,
    IncidentResolved,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    SyncFinished,
    SyncStarted,
)
from towline.events.base import Outcome
from towline_cli.lab import Instance
from towline_reconciler.cluster.client import Cluster
from towline_reconciler.cluster.login import login
from towline_reconciler.repair import PATIENCE
from towline_reconciler.settings import ReconcilerSettings
from towline_reconciler.testing import Ground, Kubectl, SourceRepository, ground, until

pytestmark = pytest.mark.lab
_numbers = itertools.count(1)


@pytest.fixture
async def here(lab_instance: Instance, tmp_path: Path) -> AsyncIterator[Ground]:
    namespace = f"follows-{next(_numbers)}"
    settings = ReconcilerSettings(
        cluster="lab",
        kubeconfig=lab_instance.kubeconfig,
        kustomize=str(lab_instance.kustomize),
        namespaces=(namespace,),
    )
    async with ground(tmp_path, Kubectl(lab_instance.kubectl, lab_instance.kubeconfig, namespace), settings) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> SourceRepository:
    return SourceRepository(tmp_path / "git")


def config_map(name: str, value: str = "1") -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  value: '{value}'\n"


def deployment(image: str, command: str = "sleep 1000", replicas: int = 1) -> str:
    return f"""
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: {image}
          command: [sh, -c, "{command}"]
"""


async def test_a_repository_becomes_objects_is_upgraded_and_pruned(here: Ground, source: SourceRepository) -> None:
    first = source.push(
        {
            "deploy/kustomization.yaml": "resources: [a.yaml, b.yaml]\n",
            "deploy/a.yaml": config_map("a"),
            "deploy/b.yaml": config_map("b"),
        },
        change="shop!first",
    )
    async with here.reconciler():
        id = await here.application("shop", source)
        deployed = await here.log.wait_for(ServiceDeployed)
        assert (deployed.application, deployed.revision, deployed.change) == (id, first, "shop!first")
        assert "condition met" in await here.kubectl(
            "wait", "--for=condition=Ready", "application/shop", "--timeout=10s"
        )
        assert await here.kubectl("get", "configmap", "b", "--output", "jsonpath={.data.value}") == "1"

        second = source.push(
            {
                "deploy/kustomization.yaml": "resources: [a.yaml]\n",
                "deploy/a.yaml": config_map("a", "2"),
                "deploy/b.yaml": None,
            },
            change="shop!second",
        )
        await here.merged(source, second)
        upgraded = await here.log.wait_for(ServiceUpgraded)
        assert (upgraded.revision, upgraded.change) == (second, "shop!second")
        finished = here.log.all(SyncFinished)[-1]
        assert (finished.applied.configured, finished.applied.deleted, finished.outcome) == (1, 1, Outcome.SUCCESS)
        assert await here.kubectl("get", "configmap", "a", "--output", "jsonpath={.data.value}") == "2"
        assert "NotFound" in await here.kubectl("get", "configmap", "b", check=False)

        table = await here.kubectl("get", "application", "shop")
        assert [*table.splitlines()[0].split()[:5]] == ["NAME", "READY", "SYNCED", "HEALTHY", "REVISION"]
        assert table.splitlines()[1].split()[:5] == ["shop", "True", "True", "True", second]

        await here.kubectl("delete", "application", "shop", "--timeout=20s")
        await here.log.wait_for(ServiceRemoved)
        assert "NotFound" in await here.kubectl("get", "configmap", "a", check=False)


async def test_running_workloads_are_told_by_digest(
    here: Ground, source: SourceRepository, lab_instance: Instance
) -> None:
    source.push({"deploy/web.yaml": deployment(lab_instance.base_image)})
    async with here.reconciler():
        await here.application("shop", source)
        deployed = await here.log.wait_for(ServiceDeployed, timeout=60)
        repository = lab_instance.base_image.rpartition(":")[0]
        assert len(deployed.images) == 1
        assert deployed.images[0].startswith(f"{repository}@sha256:")


async def test_a_revision_that_does_not_become_healthy_in_time_is_an_incident_until_it_does(
    here: Ground, source: SourceRepository, lab_instance: Instance
) -> None:
    source.push({"deploy/web.yaml": deployment(lab_instance.base_image, "exit 1")})
    async with here.reconciler():
        await here.application("shop", source, timeout="3s")
        incident = await here.log.wait_for(IncidentDetected, timeout=60)
        assert incident.reason.startswith(f"Deployment {here.kubectl.namespace}/web")
        fixed = source.push({"deploy/web.yaml": deployment(lab_instance.base_image)})
        await here.merged(source, fixed)
        resolved = await here.log.wait_for(IncidentResolved, timeout=60)
        assert resolved.revision == fixed


async def test_an_empty_render_deletes_nothing(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/a.yaml": config_map("a")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        emptied = source.push({"deploy/a.yaml": None, "deploy/notes.txt": "moved away"})
        await here.merged(source, emptied)
        await here.log.wait_for(SyncFinished, lambda sync: sync.revision == emptied)
        assert "a" in await here.kubectl("get", "configmap", "a")


async def test_a_removed_folder_fails_the_revision_and_deletes_nothing(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/a.yaml": config_map("a")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        moved = source.push({"deploy/a.yaml": None, "elsewhere/a.yaml": config_map("a")})
        await here.merged(source, moved)
        finished = await here.log.wait_for(SyncFinished, lambda sync: sync.revision == moved)
        assert finished.outcome is Outcome.FAILURE
        assert "has no folder deploy" in finished.problems[0].message
        assert "a" in await here.kubectl("get", "configmap", "a")


async def test_objects_without_our_label_are_never_pruned(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/a.yaml": config_map("a"), "deploy/b.yaml": config_map("b")})
    async with here.reconciler():
        await here.application("shop", source, drift="report")
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("label", "configmap", "b", "towline.dev/application-")
        await here.log.wait_for(DriftDetected)
        next = source.push({"deploy/b.yaml": None})
        await here.merged(source, next)
        await here.log.wait_for(SyncFinished, lambda sync: sync.revision == next)
        assert "b" in await here.kubectl("get", "configmap", "b")


async def test_drift_of_every_kind_is_repaired(here: Ground, source: SourceRepository) -> None:
    source.push(
        {
            "deploy/web.yaml": deployment("example.test/none", replicas=0),
            "deploy/secret.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {key: hidden}\n",
            "deploy/a.yaml": config_map("a"),
        }
    )
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        kinds = (
            (("scale", "deployment", "web", "--replicas=2"), "spec.replicas"),
            (("set", "image", "deployment/web", "web=example.test/evil"), "spec.template.spec.containers[web].image"),
            (("patch", "secret", "s", "--patch", '{"data":{"key":"Z29uZQ=="}}'), "data.key"),
            (("patch", "configmap", "a", "--type=json", "--patch", '[{"op":"remove","path":"/data"}]'), "data.value"),
            (("label", "configmap", "a", "towline.dev/application-"), None),
            (("delete", "configmap", "a"), None),
        )
        for number, (command, field) in enumerate(kinds, 1):
            await here.kubectl(*command)
            await _count(here, DriftRepaired, number)
            repaired = here.log.all(DriftRepaired)[-1]
            assert field is None or field in repaired.fields, repaired
            assert "Z29uZQ" not in repaired.model_dump_json()
        assert await here.kubectl("get", "deployment", "web", "--output", "jsonpath={.spec.replicas}") == "0"
        assert await here.kubectl("get", "configmap", "a", "--output", "jsonpath={.data.value}") == "1"
        assert await here.kubectl("get", "secret", "s", "--output", "jsonpath={.data.key}") == "aGlkZGVu"
        assert len(here.log.all(DriftDetected)) == len(kinds)


async def test_an_object_whose_repair_was_refused_is_made_anew_as_soon_as_it_is_gone(
    here: Ground, source: SourceRepository
) -> None:
    """It stayed away for the rest of the half minute after which a refused repair is tried again."""
    source.push({"deploy/a.yaml": config_map("a")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("patch", "configmap", "a", "--patch", '{"immutable":true,"data":{"value":"by hand"}}')
        await here.log.wait_for(DriftDetected)
        await here.kubectl("delete", "configmap", "a")
        async with asyncio.timeout(15):
            await _count(here, DriftRepaired, 1)
        assert await here.kubectl("get", "configmap", "a", "--output", "jsonpath={.data.value}") == "1"


async def test_drift_is_repaired_fast(here: Ground, source: SourceRepository) -> None:
    """Prints the figure; how fast is a matter of the machine, so it is not asserted."""
    source.push({f"deploy/{name}.yaml": config_map(name) for name in "abcde"})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        for number in range(1, 26):
            patch = f'{{"data":{{"value":"by hand {number}"}}}}'
            await here.kubectl("patch", "configmap", "abcde"[number % 5], "--patch", patch)
            await _count(here, DriftRepaired, number)
        took = sorted(each.seconds * 1000 for each in here.log.all(DriftRepaired))
        print(f"\ndrift repaired in ms: median {statistics.median(took):.1f}, least {took[0]:.1f}, most {took[-1]:.1f}")


async def test_a_fight_with_another_writer_is_told_once_and_never_spins(
    here: Ground, source: SourceRepository, lab_instance: Instance
) -> None:
    source.push({"deploy/a.yaml": config_map("a")})
    rival = Cluster(await login(lab_instance.kubeconfig))
    path = f"/api/v1/namespaces/{here.kubectl.namespace}/configmaps/a"
    writes = 0

    async def insist() -> bool:
        nonlocal writes
        if (await rival.get(path))["data"]["value"] == "1":
            writes += 1
            await rival.merge(path, {"data": {"value": f"rival {writes}"}})
        return writes > PATIENCE

    try:
        async with here.reconciler():
            await here.application("shop", source)
            await here.log.wait_for(ServiceDeployed)
            await until(insist, seconds=60)
            await _count(here, DriftDetected, PATIENCE + 1)
            value = ("get", "configmap", "a", "--output", "jsonpath={.data.value}")
            assert (await here.kubectl(*value)).startswith("rival")
            assert len(here.log.all(DriftRepaired)) == PATIENCE

            async def is_repaired() -> bool:
                return await here.kubectl(*value) == "1"

            await until(is_repaired)
    finally:
        await rival.close()


async def test_what_others_add_is_left_alone(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/a.yaml": config_map("a")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("annotate", "configmap", "a", "somebody=else")
        await here.kubectl("patch", "configmap", "a", "--patch", '{"data":{"other":"2"}}')
        await here.kubectl("patch", "configmap", "a", "--patch", '{"data":{"value":"3"}}')
        await _count(here, DriftRepaired, 1)
        assert len(here.log.all(DriftDetected)) == 1
        data = await here.kubectl("get", "configmap", "a", "--output", "jsonpath={.data.other} {.data.value}")
        assert data == "2 1"


async def test_drift_is_only_reported_where_the_application_says_so(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/a.yaml": config_map("a")})
    async with here.reconciler():
        await here.application("shop", source, drift="report")
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("patch", "configmap", "a", "--patch", '{"data":{"value":"by hand"}}')
        await here.log.wait_for(DriftDetected)
        assert await here.kubectl("get", "configmap", "a", "--output", "jsonpath={.data.value}") == "by hand"
        await here.kubectl("patch", "configmap", "a", "--patch", '{"data":{"value":"1"}}')
        await here.log.wait_for(DriftRepaired)


async def test_a_restart_adopts_what_runs_and_publishes_nothing_twice(here: Ground, source: SourceRepository) -> None:
    source.push({"deploy/a.yaml": config_map("a"), "deploy/web.yaml": deployment("example.test/none", replicas=0)})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("wait", "--for=condition=Ready", "application/shop", "--timeout=10s")
    await here.log.read()
    before = len(here.log.envelopes)
    version = "jsonpath={.metadata.resourceVersion}"
    live = await here.kubectl("get", "configmap", "a", "--output", version)
    async with here.reconciler():
        await here.kubectl("patch", "deployment", "web", "--patch", '{"spec":{"replicas":1}}')
        await here.log.wait_for(DriftRepaired)
    await here.log.read()
    since = [type(each.event) for each in here.log.envelopes[before:]]
    assert set(since) <= {DriftDetected, DriftRepaired, HealthChanged}
    assert await here.kubectl("get", "configmap", "a", "--output", version) == live


async def test_drift_of_the_time_without_an_agent_is_repaired_at_its_start(
    here: Ground, source: SourceRepository
) -> None:
    source.push({"deploy/a.yaml": config_map("a"), "deploy/b.yaml": config_map("b")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("wait", "--for=condition=Ready", "application/shop", "--timeout=10s")
    await here.kubectl("patch", "configmap", "a", "--patch", '{"data":{"value":"by hand"}}')
    await here.kubectl("delete", "configmap", "b")
    async with here.reconciler():
        await _count(here, DriftRepaired, 2)
        assert await here.kubectl("get", "configmap", "a", "--output", "jsonpath={.data.value}") == "1"
        assert await here.kubectl("get", "configmap", "b", "--output", "jsonpath={.data.value}") == "1"
    assert len(here.log.all(SyncStarted)) == 1


async def test_a_resync_without_a_change_sends_the_api_server_nothing(here: Ground, source: SourceRepository) -> None:
    commit = source.push({"deploy/a.yaml": config_map("a")})
    async with here.reconciler():
        await here.application("shop", source)
        await here.log.wait_for(ServiceDeployed)
        await here.kubectl("wait", "--for=condition=Ready", "application/shop", "--timeout=10s")
        version = "jsonpath={.metadata.resourceVersion} {.status.revision}"
        before = await here.kubectl("get", "application", "shop", "--output", version)
        await here.merged(source, source.push({"README.md": "nothing of the application"}))
        last = source.push({"deploy/a.yaml": config_map("a", "2")})
        await here.merged(source, last)
        await here.log.wait_for(SyncFinished, lambda sync: sync.revision == last)
        assert before.split()[1] == commit
    assert [each.revision for each in here.log.all(SyncFinished)] == [commit, last]


async def _count(here: Ground, event: type[DriftDetected | DriftRepaired], number: int) -> None:
    async def are_there() -> bool:
        await here.log.read()
        return len(here.log.all(event)) >= number

    await until(are_there)
