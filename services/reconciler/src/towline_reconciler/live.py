"""What is alive of all that we own, kept by watches on the kinds that inventories name and on nothing else.

Of an object only its identity, its health and the part that we own are kept. What must hold:

- A record never goes back: what a watch tells of an older resource version than the answer of an apply is ignored, so
  our own change is never taken for somebody's drift.
- What the watch tells while an apply is under way is judged again by its answer: a controller may react to our change,
  and the watch tell of that, before the answer is here.
- Drift is judged against the field set and the values of our last apply (the *reference*), because the live object's
  own `managedFields` lose a field in the moment in which another writer takes it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from towline.ids import digest_of
from towline_reconciler import projection
from towline_reconciler.api.application import LABEL, PRUNE_ANNOTATION
from towline_reconciler.cluster.client import Cluster, Json
from towline_reconciler.cluster.kinds import Resource
from towline_reconciler.cluster.reflector import Reflector
from towline_reconciler.health import Verdict, health_of
from towline_reconciler.manifest import Desired, GroupKind, ObjectId, id_of, owner_of
from towline_reconciler.plan import Seen

log = logging.getLogger(__name__)
_SETTLE_SECONDS = 15.0
_DISABLED = frozenset({"disabled", "false", "no"})

Listener = Callable[[ObjectId], None]


@dataclass(slots=True)
class Record:
    """One live object."""

    uid: str
    version: int
    """Its resource version; the API server promises that they can be ordered within a kind."""
    api: str
    owner: str | None
    keep: bool
    terminating: bool
    verdict: Verdict
    selector: Mapping[str, str] | None
    """Labels of the pods of a workload; None for everything else."""
    fields: projection.FieldSet
    owned: bytes
    """The part in `fields`, as canonical bytes."""
    by: str | None = None
    """The latest other writer of a field that differs from the reference."""
    differing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """The answer of our last apply of an object, and what was asked for."""

    body: str
    """Hash of the desired body."""
    api: str
    fields: projection.FieldSet
    owned: bytes


class LiveObjects:
    """The watch cache of one cluster."""

    def __init__(self, cluster: Cluster, namespaces: Collection[str] = ()) -> None:
        self._cluster = cluster
        self._namespaces = tuple(namespaces)
        self._records: dict[ObjectId, Record] = {}
        self._references: dict[ObjectId, Reference] = {}
        self._listeners: dict[ObjectId, Listener] = {}
        self._meanwhile: dict[ObjectId, Json | None] = {}
        """Objects that are being applied → the newest that the watch told of them since."""
        self._reflectors: dict[Resource, list[tuple[Reflector, asyncio.Task[None]]]] = {}

    # -- which kinds are watched --------------------------------------------------------------------------------

    async def ensure(self, resources: Collection[Resource]) -> dict[GroupKind, str]:
        """Watch these kinds; returns those that cannot be listed (now), with the reason."""
        for resource in resources:
            if resource not in self._reflectors:
                self._reflectors[resource] = [self._follow(resource, path) for path in self._paths(resource)]
        asked = {resource: self._reflectors[resource] for resource in resources}
        waits = [each.settled.wait() for found in asked.values() for each, _ in found if not each.settled.is_set()]
        if waits:
            try:
                await asyncio.wait_for(asyncio.gather(*waits), _SETTLE_SECONDS)
            except TimeoutError:
                log.warning("kinds are slow to be listed", extra={"kinds": [str(each.group_kind) for each in asked]})
        return {
            resource.group_kind: each.trouble or "was not listed in time"
            for resource, found in asked.items()
            for each, _ in found
            if not each.synced.is_set()
        }

    def retain(self, used: Collection[Resource]) -> None:
        """Stop watching kinds that nobody's inventory names any more."""
        for resource in [each for each in self._reflectors if each not in used]:
            for _, task in self._reflectors.pop(resource):
                task.cancel()
            for id in [id for id in self._records if id.group_kind == resource.group_kind]:
                del self._records[id]

    async def close(self) -> None:
        tasks = [task for found in self._reflectors.values() for _, task in found]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reflectors.clear()

    def _paths(self, resource: Resource) -> list[str]:
        if not self._namespaces or not resource.namespaced:
            return [resource.collection]
        return [f"{resource.base}/namespaces/{each}/{resource.plural}" for each in self._namespaces]

    def _follow(self, resource: Resource, path: str) -> tuple[Reflector, asyncio.Task[None]]:
        reflector = Reflector(self._cluster, path, self, selector=LABEL)
        return reflector, asyncio.create_task(reflector.run(), name=f"watch {resource.kind}")

    # -- what is asked of it ------------------------------------------------------------------------------------

    def listen(self, ids: Iterable[ObjectId], listener: Listener) -> None:
        """Be told of every change of these objects, also that they are gone; one listener an object."""
        for id in ids:
            self._listeners[id] = listener

    def ignore(self, ids: Iterable[ObjectId]) -> None:
        for id in ids:
            self._listeners.pop(id, None)
            self._references.pop(id, None)

    def record(self, id: ObjectId) -> Record | None:
        return self._records.get(id)

    def seen(self, ids: Iterable[ObjectId], desired: Mapping[ObjectId, Desired]) -> dict[ObjectId, Seen]:
        """For the plan: of each object that is alive, whether it is as desired."""
        return {
            id: Seen(record.owner, self._is_as_desired(record, desired.get(id)), record.terminating, record.keep)
            for id in ids
            if (record := self._records.get(id)) is not None
        }

    def _is_as_desired(self, record: Record, desired: Desired | None) -> bool:
        if desired is None:
            return False
        reference = self._references.get(desired.id)
        if reference is not None:
            return reference.body == digest_of(desired.body) and not record.differing
        return projection.is_as_desired(desired.object(), projection.loads(record.owned), record.fields)

    def drift(self, id: ObjectId) -> tuple[str, ...] | None:
        """Owned fields that differ from the reference, empty for a missing object; None where there is no drift."""
        if id not in self._references:
            return None
        record = self._records.get(id)
        if record is None:
            return ()
        return record.differing or None

    # -- what it is told ----------------------------------------------------------------------------------------

    def adopted(self, desired: Desired) -> None:
        """The live object is what Git asks for, without an apply: what it owns now is the reference."""
        record = self._records.get(desired.id)
        if record is not None and desired.id not in self._references:
            self._references[desired.id] = Reference(digest_of(desired.body), record.api, record.fields, record.owned)

    @contextmanager
    def applying(self, id: ObjectId) -> Iterator[None]:
        """Around an apply and the `applied` that tells its answer."""
        self._meanwhile[id] = None
        try:
            yield
        finally:
            self._meanwhile.pop(id, None)

    def applied(self, desired: Desired, answer: Json) -> Record:
        """An apply was answered: that is the reference now. Returns the object as answered."""
        fields = projection.owned_fields(answer)
        owned = projection.reference_of(answer, fields)
        before = self._records.get(desired.id)
        self._references[desired.id] = Reference(digest_of(desired.body), answer["apiVersion"], fields, owned)
        record = self._record_of(desired.id, answer)
        if before is None or before.uid != record.uid or record.version >= before.version:
            self._records[desired.id] = record
        elif newer := self._meanwhile.get(desired.id):
            self._records[desired.id] = self._record_of(desired.id, newer)
        return record

    def changed(self, live: Json) -> None:
        id = id_of(live)
        known = self._records.get(id)
        version = _version(live)
        if known is not None and known.uid == live["metadata"]["uid"] and version <= known.version:
            return
        reference = self._references.get(id)
        if reference is not None and reference.api != live["apiVersion"]:
            return  # watched in another version than it is applied in: the other watch tells it
        self._records[id] = self._record_of(id, live)
        if id in self._meanwhile:
            self._meanwhile[id] = live
        self._tell(id)

    def deleted(self, live: Json) -> None:
        id = id_of(live)
        known = self._records.get(id)
        if known is not None and known.uid == live["metadata"]["uid"]:
            del self._records[id]
            self._tell(id)

    def listed(self) -> None:
        """Nothing more to do: every object was told one by one."""

    def _tell(self, id: ObjectId) -> None:
        listener = self._listeners.get(id)
        if listener is not None:
            listener(id)

    def _record_of(self, id: ObjectId, live: Json) -> Record:
        meta = live["metadata"]
        reference = self._references.get(id)
        fields = projection.owned_fields(live) if reference is None else reference.fields
        owned = projection.reference_of(live, fields)
        differing: tuple[str, ...] = ()
        if reference is not None and owned != reference.owned:
            differing = projection.differing(reference.owned, live, fields)
        annotations = meta.get("annotations") or {}
        return Record(
            uid=meta["uid"],
            version=_version(live),
            api=live["apiVersion"],
            owner=owner_of(live),
            keep=str(annotations.get(PRUNE_ANNOTATION, "")).lower() in _DISABLED,
            terminating=bool(meta.get("deletionTimestamp")),
            verdict=health_of(live),
            selector=_selector(live),
            fields=fields,
            owned=owned,
            by=projection.last_writer(live, differing) if differing else None,
            differing=differing,
        )


def _version(live: Mapping[str, Any]) -> int:
    return int(live["metadata"]["resourceVersion"])


def _selector(live: Mapping[str, Any]) -> Mapping[str, str] | None:
    if live["kind"] not in ("Deployment", "StatefulSet", "DaemonSet"):
        return None
    labels = ((live.get("spec") or {}).get("selector") or {}).get("matchLabels")
    return dict(labels) if labels else None
