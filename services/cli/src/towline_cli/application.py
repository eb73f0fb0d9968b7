"""The `Application` through which the reconciler follows a local instance's repository."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson

from towline.errors import DependencyDown
from towline_reconciler.api.application import GROUP, KIND, PLURAL, VERSION
from towline_reconciler.cluster.client import Absent, Cluster
from towline_reconciler.cluster.login import login

NAMESPACE = "default"
AGAIN_SECONDS = 0.2


def application(name: str, repository: Path, path: str = "deploy") -> dict[str, Any]:
    """Follows `path` of the repository's main branch."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"source": {"url": str(repository), "branch": "main", "path": path}},
    }


async def apply(kubeconfig: Path, wanted: dict[str, Any]) -> None:
    """Applies it, as soon as the cluster answers and knows the kind, which the reconciler brings."""
    while True:
        try:
            cluster = Cluster(await login(kubeconfig))
        except DependencyDown as error:
            await asyncio.sleep(error.after or AGAIN_SECONDS)
            continue
        try:
            path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}/{wanted['metadata']['name']}"
            await cluster.apply(path, orjson.dumps(wanted))
            return
        except (Absent, DependencyDown):
            await asyncio.sleep(AGAIN_SECONDS)
        finally:
            await cluster.close()
