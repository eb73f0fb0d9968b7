"""Health of one object from what it says of itself, by the rules of kstatus, and of an application from its objects'.

Pure. `progressing` means that a controller is at work or has not looked yet; whether it has been at work for too long
is for the caller to say, who has a clock. A kind without rules of its own is judged by the conventions: it is current
once its controller has observed the newest generation and no condition says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from towline.events.deployment import Health

Json = Mapping[str, Any]


class Verdict(NamedTuple):
    health: Health
    reason: str = ""
    """One sentence without the object's name; empty when healthy."""


HEALTHY = Verdict(Health.HEALTHY)
MISSING = Verdict(Health.MISSING, "is not there")
_ORDER = tuple(Health)


def is_worse(one: Health, other: Health) -> bool:
    return _ORDER.index(one) > _ORDER.index(other)


def worst(verdicts: Iterable[tuple[str, Verdict]]) -> Verdict:
    """The verdict that decides, its reason naming the object; an application without objects is healthy."""
    decides, name = HEALTHY, ""
    for each, verdict in verdicts:
        if is_worse(verdict.health, decides.health):
            decides, name = verdict, each
    return Verdict(decides.health, f"{name} {decides.reason}") if name else decides


def health_of(live: Json) -> Verdict:
    """Never raises: a status of an unexpected shape counts as not said yet."""
    try:
        return _judge(live)
    except (TypeError, AttributeError, ValueError):
        return _progressing("has a status that cannot be read")


def _judge(live: Json) -> Verdict:
    meta, status = live["metadata"], live.get("status") or {}
    if meta.get("deletionTimestamp"):
        return _progressing("is being deleted")
    observed = status.get("observedGeneration")
    if observed is not None and int(observed) != int(meta.get("generation") or 0):
        return _progressing("waits for its controller to observe the newest generation")
    group = str(live["apiVersion"]).rpartition("/")[0]
    rule = _RULES.get((group, str(live["kind"])))
    return rule(live.get("spec") or {}, status) if rule else _by_convention(status)


def _progressing(reason: str) -> Verdict:
    return Verdict(Health.PROGRESSING, reason)


def _degraded(reason: str) -> Verdict:
    return Verdict(Health.DEGRADED, reason)


def _condition(status: Json, kind: str) -> Json:
    """Empty when there is none of this type."""
    return next((each for each in status.get("conditions") or () if each.get("type") == kind), {})


def _said(condition: Json) -> str:
    return f"{condition.get('reason') or 'no reason given'}: {condition.get('message') or 'no message'}"[:500]


def _by_convention(status: Json) -> Verdict:
    if (stalled := _condition(status, "Stalled")).get("status") == "True":
        return _degraded(f"is stalled ({_said(stalled)})")
    if (busy := _condition(status, "Reconciling")).get("status") == "True":
        return _progressing(f"is being reconciled ({_said(busy)})")
    if (failed := _condition(status, "Failed")).get("status") == "True":
        return _degraded(f"has failed ({_said(failed)})")
    ready = _condition(status, "Ready")
    if ready.get("status") in ("False", "Unknown"):
        return _progressing(f"is not ready ({_said(ready)})")
    return HEALTHY


def _deployment(spec: Json, status: Json) -> Verdict:
    progress = _condition(status, "Progressing")
    if progress.get("reason") == "ProgressDeadlineExceeded":
        return _degraded(f"does not progress ({_said(progress)})")
    if (failure := _condition(status, "ReplicaFailure")).get("status") == "True":
        return _degraded(f"cannot make its pods ({_said(failure)})")
    if "observedGeneration" not in status:
        return _progressing("was not looked at yet")
    wanted = int(1 if spec.get("replicas") is None else spec["replicas"])
    total, updated = int(status.get("replicas") or 0), int(status.get("updatedReplicas") or 0)
    if updated < wanted:
        return _progressing(f"has updated {updated} of {wanted} pods")
    if total > updated:
        return _progressing(f"waits for {total - updated} old pods to end")
    available = int(status.get("availableReplicas") or 0)
    if available < updated:
        return _progressing(f"has {available} of {updated} pods available")
    return HEALTHY


def _stateful_set(spec: Json, status: Json) -> Verdict:
    if "observedGeneration" not in status:
        return _progressing("was not looked at yet")
    wanted = int(1 if spec.get("replicas") is None else spec["replicas"])
    if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        return HEALTHY
    if (total := int(status.get("replicas") or 0)) != wanted:
        return _progressing(f"has {total} pods, {wanted} are wanted")
    if (ready := int(status.get("readyReplicas") or 0)) < wanted:
        return _progressing(f"has {ready} of {wanted} pods ready")
    rolling = (spec.get("updateStrategy") or {}).get("rollingUpdate") or {}
    expected = wanted - int(rolling.get("partition") or 0)
    if (updated := int(status.get("updatedReplicas") or 0)) < expected:
        return _progressing(f"has updated {updated} of {expected} pods")
    if not rolling.get("partition") and status.get("currentRevision") != status.get("updateRevision"):
        return _progressing("still has pods of the old revision")
    return HEALTHY


def _daemon_set(spec: Json, status: Json) -> Verdict:
    if "observedGeneration" not in status:
        return _progressing("was not looked at yet")
    wanted = int(status.get("desiredNumberScheduled") or 0)
    if (spec.get("updateStrategy") or {}).get("type") != "OnDelete":
        updated = int(status.get("updatedNumberScheduled") or 0)
        if updated < wanted:
            return _progressing(f"has updated {updated} of {wanted} pods")
    available = int(status.get("numberAvailable") or 0)
    if available < wanted:
        return _progressing(f"has {available} of {wanted} pods available")
    return HEALTHY


def _job(spec: Json, status: Json) -> Verdict:
    if (failed := _condition(status, "Failed")).get("status") == "True":
        return _degraded(f"has failed ({_said(failed)})")
    if _condition(status, "Complete").get("status") == "True" or spec.get("suspend"):
        return HEALTHY
    if not status.get("startTime"):
        return _progressing("has not started yet")
    return _progressing("runs")


def _pod(_spec: Json, status: Json) -> Verdict:
    phase = status.get("phase")
    if phase == "Failed":
        return _degraded(f"has failed ({status.get('reason') or 'no reason given'})")
    if phase == "Succeeded" or _condition(status, "Ready").get("status") == "True":
        return HEALTHY
    return _progressing(waiting_reason({"status": status}) or f"is {phase or 'not scheduled yet'}")


def waiting_reason(pod: Json) -> str:
    """What keeps a pod from running, in words; empty when nothing is said."""
    status = pod.get("status") or {}
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"cannot be scheduled ({_said(scheduled)})"
    for each in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (each.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            return f"container {each.get('name')} waits ({_said(waiting)})"
    return ""


def _service(spec: Json, status: Json) -> Verdict:
    if spec.get("type") == "LoadBalancer" and not (status.get("loadBalancer") or {}).get("ingress"):
        return _progressing("waits for its load balancer")
    return HEALTHY


def _volume_claim(_spec: Json, status: Json) -> Verdict:
    if status.get("phase") == "Lost":
        return _degraded("has lost its volume")
    return HEALTHY if status.get("phase") == "Bound" else _progressing("is not bound yet")


def _definition(_spec: Json, status: Json) -> Verdict:
    names = _condition(status, "NamesAccepted")
    if names.get("status") == "False":
        return _degraded(f"has names that are taken ({_said(names)})")
    if _condition(status, "Established").get("status") == "True":
        return HEALTHY
    return _progressing("is not established yet")


def _namespace(_spec: Json, status: Json) -> Verdict:
    return HEALTHY if status.get("phase") in (None, "Active") else _progressing(f"is {status.get('phase')}")


_RULES: Mapping[tuple[str, str], Callable[[Json, Json], Verdict]] = {
    ("apps", "Deployment"): _deployment,
    ("apps", "StatefulSet"): _stateful_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("batch", "Job"): _job,
    ("", "Pod"): _pod,
    ("", "Service"): _service,
    ("", "PersistentVolumeClaim"): _volume_claim,
    ("", "Namespace"): _namespace,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _definition,
}
