"""The status of an Application, step by step, as pure functions: what happened → the next status.

`Ready` is what people wait for: the newest revision is applied and every object of it is healthy. A condition's
transition time moves with its status alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from towline.events.base import Outcome, Problem
from towline.events.deployment import Applied, Health
from towline_reconciler.api.application import (
    ApplicationStatus,
    AppliedCounts,
    Condition,
    Finding,
    HealthStatus,
    InventoryEntry,
    LastSync,
)
from towline_reconciler.manifest import ObjectId

Truth = Literal["True", "False", "Unknown"]
_FINDINGS = 50
_MESSAGE_CHARS = 1000


def with_condition(
    status: ApplicationStatus, kind: str, truth: Truth, reason: str, message: str, *, now: str, generation: int
) -> ApplicationStatus:
    before = status.condition(kind)
    since = before.last_transition_time if before is not None and before.status == truth else now
    made = Condition(
        type=kind,
        status=truth,
        reason=reason,
        message=message[:_MESSAGE_CHARS],
        last_transition_time=since,
        observed_generation=generation,
    )
    others = tuple(each for each in status.conditions if each.type != kind)
    conditions = tuple(sorted((*others, made), key=lambda each: each.type))
    return status.model_copy(update={"conditions": conditions, "observed_generation": generation})


def with_ready(status: ApplicationStatus, *, now: str, generation: int) -> ApplicationStatus:
    """`Ready` from `Synced` and `Healthy`: the first of the two that is not true says why."""
    truth: Truth = "True"
    reason, message = "Ready", "applied and healthy"
    for kind in ("Healthy", "Synced"):
        each = status.condition(kind)
        if each is None:
            truth, reason, message = "Unknown", "Pending", f"{kind} is not known yet"
        elif each.status != "True":
            truth, reason, message = each.status, each.reason, each.message
    return with_condition(status, "Ready", truth, reason, message, now=now, generation=generation)


def with_sync(
    status: ApplicationStatus,
    sync: LastSync,
    *,
    inventory: Mapping[ObjectId, str],
    now: str,
    generation: int,
) -> ApplicationStatus:
    """A sync has ended; only a successful one moves the revision."""
    update: dict[str, object] = {"last_sync": sync}
    if sync.outcome == Outcome.SUCCESS:
        update |= {"revision": sync.revision, "change": sync.change, "tree": sync.tree}
        truth: Truth = "True"
        reason, message = "Applied", f"revision {sync.revision[:12]} is applied"
    else:
        truth, reason = "False", "SyncFailed"
        message = f"revision {sync.revision[:12]}: " + "; ".join(_line(each) for each in sync.problems[:5])
    after = with_inventory(status, inventory).model_copy(update=update)
    return with_condition(after, "Synced", truth, reason, message, now=now, generation=generation)


def with_health(
    status: ApplicationStatus, health: Health, reason: str, *, failed: bool, now: str, generation: int
) -> ApplicationStatus:
    before = status.health
    since = before.since if before is not None and before.status == health else now
    update: dict[str, object] = {
        "health": HealthStatus(status=health, reason=reason, since=since, failed=failed),
    }
    if health is Health.HEALTHY:
        update["healthy_revision"] = status.revision
    truth: Truth = "True" if health is Health.HEALTHY else "Unknown" if health is Health.UNKNOWN else "False"
    after = status.model_copy(update=update)
    message = reason or "every object is healthy"
    return with_condition(after, "Healthy", truth, health.title(), message, now=now, generation=generation)


def last_sync(
    revision: str,
    change: str | None,
    tree: str,
    outcome: Outcome,
    *,
    generation: int,
    started: str,
    seconds: float,
    applied: Applied,
    problems: Iterable[Problem],
) -> LastSync:
    findings = tuple(Finding(message=each.message, file=each.file, line=each.line) for each in problems)
    return LastSync(
        revision=revision,
        change=change,
        tree=tree,
        generation=generation,
        outcome=outcome,
        started_at=started,
        seconds=round(seconds, 4),
        applied=AppliedCounts(**applied.model_dump()),
        problems=findings[:_FINDINGS],
    )


def with_inventory(status: ApplicationStatus, inventory: Mapping[ObjectId, str]) -> ApplicationStatus:
    entries = tuple(InventoryEntry(id=id.inventory_id, v=inventory[id]) for id in sorted(inventory))
    return status.model_copy(update={"inventory": entries})


def inventory_of(status: ApplicationStatus) -> dict[ObjectId, str]:
    """Object → version; entries that cannot be read are left out, they could not be pruned either."""
    found = {}
    for entry in status.inventory:
        try:
            found[ObjectId.from_inventory(entry.id)] = entry.v
        except ValueError:
            continue
    return found


def _line(finding: Finding) -> str:
    where = f"{finding.file}:{finding.line}: " if finding.file and finding.line else ""
    return f"{where}{finding.message}"
