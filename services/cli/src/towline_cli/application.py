"""The `Application` through which the reconciler follows a local instance's repository.

Rule: until the cluster has taken it nothing is deployed, so whoever looks is told why: in `/readyz`, in
`towline status` and, each new refusal once, in the log.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import orjson

from towline.delivery.retry import backoff
from towline.errors import DependencyDown, TowlineError
from towline_reconciler.api.application import GROUP, KIND, PLURAL, VERSION
from towline_reconciler.cluster.client import Absent, Cluster
from towline_reconciler.cluster.login import login

log = logging.getLogger(__name__)
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


class Applying:
    """Applies one Application, trying again until the cluster has taken it: also a refusal may pass, when somebody
    gives a right or mends an admission webhook."""

    def __init__(self, kubeconfig: Path, wanted: dict[str, Any]) -> None:
        self._kubeconfig = kubeconfig
        self._wanted = wanted
        self._taken = False
        self._trouble: str | None = None

    def waits(self) -> str | None:
        """Why it is not in the cluster; None once it is."""
        if self._taken:
            return None
        said = f"the Application {self._wanted['metadata']['name']} is not in the cluster"
        return f"{said}: {self._trouble}" if self._trouble else said

    async def run(self) -> None:
        tries = 0
        while not self._taken:
            try:
                await self._apply()
                self._taken = True
            except (Absent, DependencyDown) as error:  # a cluster that starts; the kind comes with the reconciler
                self._trouble = str(error)
                await asyncio.sleep(getattr(error, "after", None) or AGAIN_SECONDS)
            except TowlineError as error:
                tries += 1
                self._refused(str(error))
                await asyncio.sleep(backoff(tries, str(self._kubeconfig)))

    async def _apply(self) -> None:
        cluster = Cluster(await login(self._kubeconfig))
        try:
            path = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}/{PLURAL}/{self._wanted['metadata']['name']}"
            await cluster.apply(path, orjson.dumps(self._wanted))
        finally:
            await cluster.close()

    def _refused(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.error("the Application is refused; it is tried again", extra={"error": trouble})
        self._trouble = trouble
