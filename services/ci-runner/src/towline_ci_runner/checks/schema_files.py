"""Where the Kubernetes schemas are: the files of the package kubernetes-validate, found without importing it."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path


@cache
def top() -> Path:
    spec = importlib.util.find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("kubernetes-validate is not installed; its schema files are needed")
    return Path(spec.origin).parent / "kubernetes-json-schema"


def folder(version: str) -> Path:
    """The strict schemas, which know that an unknown field is a mistake."""
    return top() / f"v{version}.0-local-strict"


@cache
def known_versions() -> tuple[str, ...]:
    """From the oldest to the newest, such as 1.37."""
    names = [path.name for path in top().glob("v1.*.0-local-strict")]
    return tuple(sorted((name[1:5] for name in names), key=lambda version: int(version.partition(".")[2])))
