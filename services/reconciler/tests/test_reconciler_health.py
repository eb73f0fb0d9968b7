"""kstatus rules, one case a line, and the order of an application's objects."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.events.deployment import Health
from towline_reconciler.health import Verdict, health_of, is_worse, worst

H, P, D = Health.HEALTHY, Health.PROGRESSING, Health.DEGRADED
DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
SET = {**DONE, "currentRevision": "r2", "updateRevision": "r2"}
DAEMONS = {"observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2}


def condition(kind: str, status: str, reason: str = "Because") -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": status, "reason": reason, "message": "so it is"}]}


def live(api: str, kind: str, spec: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": api, "kind": kind, "metadata": {"name": "x", "generation": 2}, "spec": spec, "status": status}


CASES: dict[str, tuple[Health, str, str, dict[str, Any], dict[str, Any]]] = {
    "deployment done": (H, "apps/v1", "Deployment", {"replicas": 2}, DONE),
    "deployment of no pods": (H, "apps/v1", "Deployment", {"replicas": 0}, {"observedGeneration": 2}),
    "deployment unseen": (P, "apps/v1", "Deployment", {"replicas": 2}, {}),
    "deployment of an older generation": (P, "apps/v1", "Deployment", {}, {**DONE, "observedGeneration": 1}),
    "deployment updating": (P, "apps/v1", "Deployment", {"replicas": 2}, {**DONE, "updatedReplicas": 1}),
    "deployment with old pods": (P, "apps/v1", "Deployment", {"replicas": 2}, {**DONE, "replicas": 3}),
    "deployment unavailable": (P, "apps/v1", "Deployment", {"replicas": 2}, {**DONE, "availableReplicas": 1}),
    "deployment stuck": (
        *(D, "apps/v1", "Deployment", {"replicas": 2}),
        {**DONE, **condition("Progressing", "False", "ProgressDeadlineExceeded")},
    ),
    "deployment without quota": (D, "apps/v1", "Deployment", {}, {**DONE, **condition("ReplicaFailure", "True")}),
    "set done": (H, "apps/v1", "StatefulSet", {"replicas": 2}, SET),
    "set updating": (P, "apps/v1", "StatefulSet", {"replicas": 2}, {**SET, "updateRevision": "r3"}),
    "set not ready": (P, "apps/v1", "StatefulSet", {"replicas": 2}, {**SET, "readyReplicas": 1}),
    "set in parts": (
        *(H, "apps/v1", "StatefulSet"),
        {"replicas": 2, "updateStrategy": {"rollingUpdate": {"partition": 1}}},
        {**SET, "updatedReplicas": 1, "updateRevision": "r3"},
    ),
    "set by hand": (H, "apps/v1", "StatefulSet", {"updateStrategy": {"type": "OnDelete"}}, {"observedGeneration": 2}),
    "daemons done": (H, "apps/v1", "DaemonSet", {}, DAEMONS),
    "daemons unavailable": (P, "apps/v1", "DaemonSet", {}, {**DAEMONS, "numberAvailable": 1}),
    "job complete": (H, "batch/v1", "Job", {}, condition("Complete", "True")),
    "job failed": (D, "batch/v1", "Job", {}, condition("Failed", "True")),
    "job running": (P, "batch/v1", "Job", {}, {"startTime": "2026-01-01T00:00:00Z"}),
    "pod ready": (H, "v1", "Pod", {}, {"phase": "Running", **condition("Ready", "True")}),
    "pod failed": (D, "v1", "Pod", {}, {"phase": "Failed"}),
    "pod pending": (P, "v1", "Pod", {}, {"phase": "Pending"}),
    "service": (H, "v1", "Service", {"type": "ClusterIP"}, {"loadBalancer": {}}),
    "service without its balancer": (P, "v1", "Service", {"type": "LoadBalancer"}, {"loadBalancer": {}}),
    "claim bound": (H, "v1", "PersistentVolumeClaim", {}, {"phase": "Bound"}),
    "claim lost": (D, "v1", "PersistentVolumeClaim", {}, {"phase": "Lost"}),
    "claim pending": (P, "v1", "PersistentVolumeClaim", {}, {"phase": "Pending"}),
    "definition established": (
        *(H, "apiextensions.k8s.io/v1", "CustomResourceDefinition", {}),
        condition("Established", "True"),
    ),
    "definition with taken names": (
        *(D, "apiextensions.k8s.io/v1", "CustomResourceDefinition", {}),
        condition("NamesAccepted", "False"),
    ),
    "config map": (H, "v1", "ConfigMap", {}, {}),
    "custom ready": (H, "x.example/v1", "Thing", {}, condition("Ready", "True")),
    "custom not ready": (P, "x.example/v1", "Thing", {}, condition("Ready", "False")),
    "custom stalled": (D, "x.example/v1", "Thing", {}, condition("Stalled", "True")),
    "custom unseen": (P, "x.example/v1", "Thing", {}, {"observedGeneration": 1}),
    "nonsense": (P, "apps/v1", "Deployment", {"replicas": "many"}, {"observedGeneration": 2}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_object_is_judged_by_its_kind(name: str) -> None:
    expected, api, kind, spec, status = CASES[name]
    verdict = health_of(live(api, kind, spec, status))
    assert verdict.health is expected, verdict.reason
    assert bool(verdict.reason) == (expected is not H)


def test_an_object_that_is_being_deleted_is_not_healthy() -> None:
    dying = live("v1", "ConfigMap", {}, {})
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert health_of(dying).health is P


json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
)


@given(
    st.sampled_from(["Deployment", "StatefulSet", "DaemonSet"]),
    st.dictionaries(st.sampled_from(["replicas", "updateStrategy", "type"]), json),
    st.dictionaries(st.sampled_from(["conditions", "replicas", "phase", "observedGeneration"]), json),
)
def test_no_status_makes_it_raise(kind: str, spec: dict[str, Any], status: dict[str, Any]) -> None:
    assert isinstance(health_of(live("apps/v1", kind, spec, status)), Verdict)


@given(st.lists(st.sampled_from(list(Health)), min_size=1))
def test_the_worst_object_decides_and_is_named(found: list[Health]) -> None:
    verdict = worst((f"object {index}", Verdict(each, "is so")) for index, each in enumerate(found))
    assert not any(is_worse(each, verdict.health) for each in found)
    if verdict.health is not H:
        assert verdict.reason == f"object {found.index(verdict.health)} is so"
