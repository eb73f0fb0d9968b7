"""Puts the Application CRD into a cluster that has none, and keeps up to date one that was put there so."""

from __future__ import annotations

import asyncio
import logging

import orjson

from towline.errors import DependencyDown
from towline.events.deployment import Health
from towline_reconciler.api.application import GROUP, PLURAL
from towline_reconciler.api.crd import definition
from towline_reconciler.cluster.client import Absent, Cluster
from towline_reconciler.health import health_of
from towline_reconciler.projection import owned_fields

log = logging.getLogger(__name__)
PATH = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{PLURAL}.{GROUP}"
_TRIES = 200
_LOOK_AGAIN = 0.05


async def install(cluster: Cluster) -> None:
    """Returns when Applications can be made. Raises Rejected (the right is missing) or DependencyDown."""
    try:
        live = await cluster.get(PATH)
    except Absent:
        log.info("the Application CRD is installed")
        live = await cluster.apply(PATH, orjson.dumps(definition()))
    else:
        if owned_fields(live):
            live = await cluster.apply(PATH, orjson.dumps(definition()))
    for _ in range(_TRIES):
        if health_of(live).health is Health.HEALTHY:
            return
        await asyncio.sleep(_LOOK_AGAIN)
        live = await cluster.get(PATH)
    raise DependencyDown("the Application CRD was not established in time")
