"""What a sync would do, as data: desired objects against the live ones that the cache knows.

Pure. The guards of deletion stand here: only what the inventory names *and* our label marks is ever deleted, and
nothing at all when the desired state cannot be trusted to be complete.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from towline_reconciler.manifest import Desired, GroupKind, ObjectId


class Action(Enum):
    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    """The live object belongs to another application."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the plan needs to know of a live object."""

    owner: str | None
    """`<namespace>/<name>` of the application whose label it carries."""
    as_desired: bool
    """Its owned fields are what this desired body asks for."""
    terminating: bool = False
    keep: bool = False
    """It asks not to be pruned."""


@dataclass(frozen=True, slots=True)
class Step:
    desired: Desired
    action: Action
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    waves: tuple[tuple[Step, ...], ...]
    """Definitions and namespaces, then the rest. A wave begins when the one before is established."""
    unchanged: tuple[Desired, ...]
    conflicts: tuple[Step, ...]
    delete: tuple[ObjectId, ...]
    kept: str | None
    """Why objects that Git no longer names are not deleted; None when none are left over or all go."""


_FIRST = frozenset({GroupKind("apiextensions.k8s.io", "CustomResourceDefinition"), GroupKind("", "Namespace")})


def is_definition(kind: GroupKind) -> bool:
    """Kinds that others need before they can be applied at all."""
    return kind in _FIRST


def plan_for(
    application: str,
    desired: Sequence[Desired],
    live: Mapping[ObjectId, Seen],
    inventory: Collection[ObjectId],
    *,
    prune: bool,
    unreadable: Collection[GroupKind] = (),
) -> Plan:
    """`application` is `<namespace>/<name>`; `unreadable` are kinds whose live objects could not be listed."""
    waves: tuple[list[Step], list[Step]] = ([], [])
    conflicts: list[Step] = []
    unchanged: list[Desired] = []
    for each in desired:
        step = _step(application, each, live.get(each.id))
        if step.action is Action.UNCHANGED:
            unchanged.append(each)
        elif step.action is Action.CONFLICT:
            conflicts.append(step)
        else:
            waves[0 if is_definition(each.id.group_kind) else 1].append(step)
    left = sorted(set(inventory) - {each.id for each in desired})
    kept = _why_nothing_is_deleted(left, desired, prune=prune, unreadable=unreadable)
    doomed = () if kept else tuple(each for each in left if _may_go(application, live.get(each)))
    return Plan(
        tuple(tuple(wave) for wave in waves if wave), tuple(unchanged), tuple(conflicts), _in_order(doomed), kept
    )


def _step(application: str, desired: Desired, seen: Seen | None) -> Step:
    if seen is None:
        return Step(desired, Action.CREATE)
    if seen.owner not in (None, application):
        reason = f"{desired.id} belongs to the application {seen.owner}; let only one of the two name it"
        return Step(desired, Action.CONFLICT, reason)
    if seen.terminating:
        return Step(desired, Action.UNCHANGED)  # it is created again when the watch says that it is gone
    return Step(desired, Action.UNCHANGED if seen.as_desired else Action.UPDATE)


def _why_nothing_is_deleted(
    left: Sequence[ObjectId], desired: Sequence[Desired], *, prune: bool, unreadable: Collection[GroupKind]
) -> str | None:
    if not left:
        return None
    if not prune:
        return "spec.prune is false"
    if not desired:
        return "the source renders to no object at all; an empty render never deletes"
    unread = sorted(str(each.group_kind) for each in left if each.group_kind in unreadable)
    if unread:
        return f"live objects of {', '.join(unread)} could not be listed"
    return None


def _may_go(application: str, seen: Seen | None) -> bool:
    return seen is not None and seen.owner == application and not seen.terminating and not seen.keep


def _in_order(doomed: Sequence[ObjectId]) -> tuple[ObjectId, ...]:
    """Definitions and namespaces last, so that what lives in them goes by its own name first."""
    return tuple(sorted(doomed, key=lambda each: (is_definition(each.group_kind), each)))
