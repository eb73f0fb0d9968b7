"""Which kinds the API server serves, and at which path. Asked once per group version and kept.

A kind that is not found is looked up anew, because its definition may have been applied a moment ago.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from towline_reconciler.cluster.client import Absent, Cluster
from towline_reconciler.manifest import GroupKind


@dataclass(frozen=True, slots=True)
class Resource:
    """One served kind: `plural` and `namespaced` make its paths."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool

    @property
    def base(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def collection(self) -> str:
        """All objects of the kind, in every namespace."""
        return f"{self.base}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        where = f"/namespaces/{namespace}" if self.namespaced else ""
        return f"{self.base}{where}/{self.plural}/{name}"

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(self.group, self.kind)


class Kinds:
    """The discovery cache of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._known: dict[tuple[str, str], dict[str, Resource]] = {}
        self._locks: dict[tuple[str, str], asyncio.Lock] = {}

    async def find(self, group: str, version: str, kind: str) -> Resource | None:
        """None when the server does not serve it (now). Raises DependencyDown."""
        at = (group, version)
        found = self._known.get(at, {}).get(kind)
        if found is not None:
            return found
        async with self._locks.setdefault(at, asyncio.Lock()):
            if kind not in self._known.get(at, {}):
                self._known[at] = await self._ask(group, version)
        return self._known[at].get(kind)

    async def _ask(self, group: str, version: str) -> dict[str, Resource]:
        base = f"/apis/{group}/{version}" if group else f"/api/{version}"
        try:
            answer = await self._cluster.get(base)
        except Absent:
            return {}
        return {
            each["kind"]: Resource(group, version, each["kind"], each["name"], bool(each["namespaced"]))
            for each in answer.get("resources", ())
            if "/" not in each["name"]
        }
