"""From the claim of an Application to its end: the finalizer, and the deletion of everything that it made.

What must hold: an Application whose objects shall go with it is not let go before they were asked to go, and what
cannot be listed is not deleted.
"""

from __future__ import annotations

from collections.abc import Mapping

from towline.errors import DependencyDown, Permanent
from towline_reconciler.api.application import FINALIZER, Application
from towline_reconciler.cluster.client import Rejected
from towline_reconciler.cluster.kinds import Kinds, Resource
from towline_reconciler.live import LiveObjects
from towline_reconciler.manifest import ObjectId
from towline_reconciler.report import path_of
from towline_reconciler.tools import Tools


def is_claimed(application: Application) -> bool:
    return FINALIZER in application.finalizers


async def claim(tools: Tools, application: Application) -> None:
    """The finalizer lets the agent delete what the Application made when it is deleted."""
    if application.spec.prune and not is_claimed(application):
        await _set_finalizers(tools, application, (*application.finalizers, FINALIZER))


async def release(tools: Tools, application: Application) -> None:
    await _set_finalizers(tools, application, tuple(each for each in application.finalizers if each != FINALIZER))


async def prune_all(tools: Tools, application: Application, inventory: Mapping[ObjectId, str]) -> None:
    """Unless `spec.prune` is false. Raises DependencyDown or Permanent for what could not be deleted."""
    if not application.spec.prune:
        return
    resources = await served(tools.kinds, inventory)
    unreadable = await tools.live.ensure(set(resources.values()))
    if unreadable:
        raise DependencyDown(f"objects cannot be listed, so none is deleted: {min(unreadable.values())}")
    ours = [id for id in inventory if _may_go(tools.live, id, application.key)]
    outcome = await tools.syncer.delete(ours, resources)
    if outcome.down is not None:
        raise outcome.down
    if outcome.problems:
        raise Permanent(outcome.problems[0].message)


async def served(kinds: Kinds, inventory: Mapping[ObjectId, str]) -> dict[ObjectId, Resource]:
    """Where the API server serves these objects; those of a kind that is gone are left out, they went with it."""
    found = {}
    for id, version in inventory.items():
        resource = await kinds.find(id.group, version, id.kind)
        if resource is not None:
            found[id] = resource
    return found


async def _set_finalizers(tools: Tools, application: Application, finalizers: tuple[str, ...]) -> None:
    body = {"metadata": {"finalizers": list(finalizers), "resourceVersion": application.resource_version}}
    try:
        await tools.cluster.merge(path_of(application), body)
    except Rejected as error:
        if error.status != 409:
            raise
        raise DependencyDown("the Application changed meanwhile; once more", after=0.05) from error


def _may_go(live: LiveObjects, id: ObjectId, owner: str) -> bool:
    record = live.record(id)
    return record is not None and record.owner == owner and not record.keep
