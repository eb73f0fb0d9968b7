"""One list and watch that never ends: what the server says of a collection, event by event.

The rule that must hold: after any break (EOF, 410, 429, a server that was away) the follower is told of everything
that changed meanwhile, deletions included, because a list after a break is compared with what was known before.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from typing import Protocol

from towline.errors import DependencyDown, Retryable
from towline_reconciler.cluster.client import Cluster, Expired, Json, Rejected

log = logging.getLogger(__name__)
PAGE = 500
_LONGEST_WAIT = 10.0
_SHORTEST_WATCH = 1.0
"""Seconds; a server or proxy that ends watches sooner is not asked again without a pause."""


class Follower(Protocol):
    """Is told what changed. Calls come from the event loop, one at a time, in the server's order."""

    def changed(self, live: Json) -> None:
        """Added or modified; also called again for an object that did not change."""
        ...

    def deleted(self, live: Json) -> None:
        """Gone; `live` is its last known form, after a break only `metadata` with name, namespace and uid."""
        ...

    def listed(self) -> None:
        """The first complete list, or one after a break, has been told."""
        ...


class Reflector:
    """Follows one collection until cancelled."""

    def __init__(self, cluster: Cluster, path: str, follower: Follower, *, selector: str = "") -> None:
        self._cluster = cluster
        self._path = path
        self._follower = follower
        self._selector = {"labelSelector": selector} if selector else {}
        self._known: dict[str, tuple[str, str]] = {}
        """uid → (namespace, name)."""
        self.synced = asyncio.Event()
        """Set while the last list succeeded."""
        self.settled = asyncio.Event()
        """Set once the first list has succeeded or failed."""
        self.trouble: str | None = "has not listed yet"
        """Why nothing is heard at the moment; None while all is well."""

    async def run(self) -> None:
        version, failures = "", 0
        while True:
            began = time.monotonic()
            try:
                version = version or await self._list()
                self.trouble = None
                async for seen in self._follow(version):
                    version, failures = seen, 0
                if time.monotonic() - began > _SHORTEST_WATCH:
                    continue
                error: Exception = DependencyDown("the watch ended at once")  # not again without a pause
            except Expired as expired:
                version, error = "", expired
            except (Rejected, DependencyDown) as failure:
                error = failure
                if self.trouble is None and failures == 0:
                    log.warning("a watch broke", extra={"path": self._path, "error": str(error)})
                self.trouble = str(error)
                self.settled.set()
                if isinstance(error, Rejected):
                    version = ""
                    self.synced.clear()
            except Exception as bug:
                # A watch that ended for good would leave its objects unseen and say nothing: all is told anew.
                log.exception("a watch broke by a bug", extra={"path": self._path})
                version, error, self.trouble = "", bug, f"a bug ({type(bug).__name__}; see the log)"
                self.synced.clear()
                self.settled.set()
            failures += 1
            await asyncio.sleep(_pause(error, failures))

    async def _list(self) -> str:
        """Tell the whole collection in pages; returns the version to watch from."""
        found: dict[str, tuple[str, str]] = {}
        params = {**self._selector, "limit": str(PAGE)}
        while True:
            page = await self._cluster.get(self._path, **params)
            kind, api_version = str(page["kind"]).removesuffix("List"), page["apiVersion"]
            for live in page["items"]:
                live = {"apiVersion": api_version, "kind": kind, **live}
                found[live["metadata"]["uid"]] = _name(live)
                self._known[live["metadata"]["uid"]] = _name(live)
                self._follower.changed(live)
            token = page["metadata"].get("continue")
            if not token:
                break
            params["continue"] = token
        for uid, (namespace, name) in [item for item in self._known.items() if item[0] not in found]:
            del self._known[uid]
            meta = {"namespace": namespace, "name": name, "uid": uid}
            self._follower.deleted({"apiVersion": api_version, "kind": kind, "metadata": meta})
        self.synced.set()
        self.settled.set()
        self._follower.listed()
        return str(page["metadata"]["resourceVersion"])

    async def _follow(self, version: str) -> AsyncIterator[str]:
        seconds = random.randint(300, 600)  # noqa: S311 - spreads reconnects, guards nothing
        params = {
            **self._selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        async with self._cluster.watch(self._path, params, idle_seconds=seconds + 30.0) as events:
            async for event in events:
                live = event["object"]
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._known[live["metadata"]["uid"]] = _name(live)
                    self._follower.changed(live)
                elif event["type"] == "DELETED":
                    self._known.pop(live["metadata"]["uid"], None)
                    self._follower.deleted(live)
                yield str(live["metadata"]["resourceVersion"])


def _name(live: Json) -> tuple[str, str]:
    return live["metadata"].get("namespace") or "", live["metadata"]["name"]


def _pause(error: Exception, failures: int) -> float:
    """Full jitter below a growing bound, never under what the server asked for."""
    asked = error.after if isinstance(error, Retryable) and error.after else 0.0
    bound = min(_LONGEST_WAIT, 0.05 * 2 ** min(failures, 10))
    return asked + random.uniform(bound / 4, bound)  # noqa: S311 - spreads retries, guards nothing
