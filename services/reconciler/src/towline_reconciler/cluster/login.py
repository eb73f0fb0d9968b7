"""Login by kubernetes_asyncio, without the 100 MB and the second that importing all of it costs.

The package's own `__init__` modules import every generated model. Here the packages stand in `sys.modules` without
having run them, so that a submodule is imported alone. The rule that must hold: nobody can tell. The first attribute
that is asked of such a package and is not there runs its `__init__` after all.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import aiohttp
import yaml

from towline.errors import DependencyDown, Permanent

_PACKAGES = ("kubernetes_asyncio", "kubernetes_asyncio.client", "kubernetes_asyncio.client.models")
_ALONE = (("exceptions", ""), ("rest", ""), ("configuration", "Configuration"), ("api_client", "ApiClient"))
"""Submodules of the client that a login needs, each after those that it asks its package for; and what it gives."""

_NO_KUBECONFIG = (yaml.YAMLError, OSError, TypeError, ValueError, LookupError, AttributeError)
"""What the package raises for a file of another shape, and for certificates that are none."""


class NoLogin(Permanent):
    """The kubeconfig cannot be used; the message says which and why."""


class _Unrun(ModuleType):
    """A package whose `__init__` runs when something of it is missing."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def _stand_in(name: str) -> ModuleType:
    parent, _, leaf = name.rpartition(".")
    path = list(sys.modules[parent].__path__) if parent else None
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is None:
        raise NoLogin(f"the package {name} is not installed")
    module = importlib.util.module_from_spec(spec)
    module.__class__ = _Unrun
    sys.modules[name] = module
    if parent:
        setattr(sys.modules[parent], leaf, module)
    return module


def _import_config() -> Any:
    """`kubernetes_asyncio.config`, with as little else as possible."""
    if _PACKAGES[0] not in sys.modules:
        _, client, _ = (_stand_in(name) for name in _PACKAGES)
        for submodule, attribute in _ALONE:
            module = importlib.import_module(f"{client.__name__}.{submodule}")
            if attribute:
                setattr(client, attribute, getattr(module, attribute))
    return importlib.import_module("kubernetes_asyncio.config")


@dataclass(frozen=True)
class Login:
    """A way into one cluster: its address and a client that knows TLS and renews tokens."""

    host: str
    session: aiohttp.ClientSession
    proxy: str | None
    _client: Any
    _configuration: Any

    async def headers(self) -> dict[str, str]:
        """What authenticates one request; a token that is due is renewed here."""
        headers: dict[str, str] = {}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"])
        return headers

    async def close(self) -> None:
        await self._client.close()


async def login(kubeconfig: Path | None, context: str | None = None, *, connections: int = 64) -> Login:
    """By kubeconfig, or as the Pod's service account when None. Raises NoLogin or DependencyDown."""
    config = _import_config()
    from kubernetes_asyncio.client import ApiClient, Configuration

    configuration = Configuration()
    configuration.connection_pool_maxsize = connections
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)
        else:
            if not os.path.isfile(kubeconfig):  # noqa: PTH113 - one stat, at start only
                raise DependencyDown(f"there is no kubeconfig at {kubeconfig}; set reconciler.kubeconfig", after=2.0)
            await config.load_kube_config(
                config_file=str(kubeconfig), context=context, client_configuration=configuration
            )
        client = ApiClient(configuration)
    except config.ConfigException as error:
        where = str(kubeconfig) if kubeconfig else "the Pod's service account"
        raise NoLogin(f"cannot log in with {where}: {error}") from error
    except _NO_KUBECONFIG as error:  # not its words: they may quote the file, which holds a credential
        said = f"{kubeconfig} is no kubeconfig that can be used ({type(error).__name__})"
        raise NoLogin(f"{said}; `kubectl --kubeconfig {kubeconfig} version` says more") from None
    session: aiohttp.ClientSession = client.rest_client.pool_manager
    return Login(str(configuration.host).rstrip("/"), session, configuration.proxy, client, configuration)
