"""Carries out a plan: server-side apply in waves, everything of a wave in parallel, then the deletions.

What must hold: one object that is refused does not keep the others from being applied, and every refusal is reported
with its object, its file and its line; objects are deleted only when everything else was applied.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from towline.errors import DependencyDown, Location
from towline.events.base import Problem
from towline.events.deployment import Applied, Health
from towline_reconciler.cluster.client import Absent, Cluster, Rejected
from towline_reconciler.cluster.kinds import Resource
from towline_reconciler.health import health_of
from towline_reconciler.live import LiveObjects
from towline_reconciler.manifest import Desired, ObjectId
from towline_reconciler.plan import Action, Plan, is_definition

log = logging.getLogger(__name__)
_ESTABLISH_SECONDS = 30.0
_LOOK_AGAIN = 0.05
_MOST_CHARS = 1000
T = TypeVar("T")
R = TypeVar("R")

Resources = Mapping[ObjectId, Resource]
"""Where the API server serves each object."""


@dataclass
class Outcome:
    """What came of a plan."""

    applied: Applied = field(default_factory=Applied)
    problems: list[Problem] = field(default_factory=list)
    changed: list[ObjectId] = field(default_factory=list)
    """Objects that an apply made or altered."""
    gone: list[ObjectId] = field(default_factory=list)
    """Objects of the inventory that are not there any more."""
    down: DependencyDown | None = None
    """The API server went away; what was not answered must be done again."""


class Syncer:
    """Applies to one cluster."""

    def __init__(self, cluster: Cluster, live: LiveObjects, *, requests: int = 16) -> None:
        self._cluster = cluster
        self._live = live
        self._requests = requests

    async def carry_out(self, plan: Plan, resources: Resources) -> Outcome:
        outcome = Outcome()
        created = configured = unchanged = failed = 0
        for wave in plan.waves:
            answers = await self._each(wave, lambda step: self._apply(step.desired, resources))
            for step, answer in zip(wave, answers, strict=True):
                if isinstance(answer, bool):
                    created += answer and step.action is Action.CREATE
                    configured += answer and step.action is Action.UPDATE
                    unchanged += not answer
                    if answer:
                        outcome.changed.append(step.desired.id)
                else:
                    failed += 1
                    _note(outcome, step.desired, answer)
            if outcome.problems or outcome.down:
                break  # a later wave needs this one
        for step in plan.conflicts:
            outcome.problems.append(problem(step.reason, step.desired.location))
        deleted = 0
        if not outcome.problems and outcome.down is None:
            deleted = await self._prune(plan.delete, resources, outcome)
        failed += len(plan.conflicts)
        outcome.applied = Applied(
            created=created,
            configured=configured,
            unchanged=unchanged + len(plan.unchanged),
            deleted=deleted,
            failed=failed,
        )
        return outcome

    async def apply(self, desired: Desired, resource: Resource) -> bool:
        """True when it changed the object. Raises Rejected or DependencyDown."""
        before = self._live.record(desired.id)  # the watch may tell of our own apply before its answer is here
        with self._live.applying(desired.id):
            answer = await self._cluster.apply(resource.path(desired.id.namespace, desired.id.name), desired.body)
            after = self._live.applied(desired, answer)
        changed = before is None or (before.uid, before.version) != (after.uid, after.version)
        if is_definition(desired.id.group_kind):
            await self._until_established(resource.path(desired.id.namespace, desired.id.name))
        return changed

    async def delete(self, ids: Collection[ObjectId], resources: Resources) -> Outcome:
        """Delete what is alive of these; for an application that goes."""
        outcome = Outcome()
        await self._prune(tuple(ids), resources, outcome)
        return outcome

    async def _apply(self, desired: Desired, resources: Resources) -> bool:
        return await self.apply(desired, resources[desired.id])

    async def _until_established(self, path: str) -> None:
        """A kind can be used a moment after its definition is there; a namespace at once."""
        deadline = time.monotonic() + _ESTABLISH_SECONDS
        while health_of(await self._cluster.get(path)).health is not Health.HEALTHY:
            if time.monotonic() > deadline:
                raise Rejected(f"it was not established within {_ESTABLISH_SECONDS:.0f} s", status=0)
            await asyncio.sleep(_LOOK_AGAIN)

    async def _prune(self, ids: Sequence[ObjectId], resources: Resources, outcome: Outcome) -> int:
        """One wave of all but definitions and namespaces, then those."""
        deleted = 0
        for wave in (
            [each for each in ids if not is_definition(each.group_kind)],
            [each for each in ids if is_definition(each.group_kind)],
        ):
            answers = await self._each(wave, lambda id: self._delete(id, resources))
            for id, answer in zip(wave, answers, strict=True):
                if isinstance(answer, bool):
                    deleted += answer
                    outcome.gone.append(id)
                elif isinstance(answer, DependencyDown):
                    outcome.down = answer
                else:
                    outcome.problems.append(Problem(message=f"{id} cannot be deleted: {answer}", check="prune"))
            if outcome.problems or outcome.down:
                break
        return deleted

    async def _delete(self, id: ObjectId, resources: Resources) -> bool:
        record, resource = self._live.record(id), resources.get(id)
        if record is None or resource is None:
            return False
        try:
            await self._cluster.delete(resource.path(id.namespace, id.name), record.uid)
        except Absent:
            return False
        return True

    async def _each(self, items: Sequence[T], call: Callable[[T], Awaitable[R]]) -> list[R | Rejected | DependencyDown]:
        """The answers in order, so many calls at once as the cluster is asked to bear."""
        slots = asyncio.Semaphore(self._requests)

        async def one(item: T) -> R | Rejected | DependencyDown:
            async with slots:
                try:
                    return await call(item)
                except (Rejected, DependencyDown) as error:
                    return error

        return list(await asyncio.gather(*map(one, items)))


def _note(outcome: Outcome, desired: Desired, error: Exception) -> None:
    if isinstance(error, DependencyDown):
        outcome.down = error
        return
    outcome.problems.append(problem(f"{desired.id}: {_in_words(error)}", desired.location))


def problem(message: str, at: Location) -> Problem:
    return bounded(Problem(message=message, file=at.file, line=at.line, check="apply"))


def bounded(problem: Problem) -> Problem:
    """Names in a manifest may be as long as a file; what quotes them must still fit into an event and a status."""
    file = problem.file and problem.file[:_MOST_CHARS]
    return problem.model_copy(update={"message": problem.message[:_MOST_CHARS], "file": file})


def _in_words(error: Exception) -> str:
    """The server's own sentence, and what kind of refusal it is."""
    if not isinstance(error, Rejected):
        return str(error)
    words = {
        403: "forbidden; give the agent's account the right, or leave the object out",
        409: "conflict; another writer insists on a field",
        422: "invalid",
        400: "bad request",
    }
    said = words.get(error.status)
    return f"{said}: {error}" if said else str(error)
