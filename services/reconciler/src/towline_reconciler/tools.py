"""What all applications of a cluster share."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from towline_reconciler.cluster.client import Cluster
from towline_reconciler.cluster.kinds import Kinds
from towline_reconciler.live import LiveObjects
from towline_reconciler.sync import Syncer


@dataclass(frozen=True, slots=True)
class Tools:
    """Made once for a login."""

    cluster: Cluster
    kinds: Kinds
    live: LiveObjects
    syncer: Syncer
    slots: AbstractAsyncContextManager[object]
    """Held while syncing: so many at once."""
    interval: str
