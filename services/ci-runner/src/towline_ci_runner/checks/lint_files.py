"""Which files the `lint` check reads."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Iterable

OWN = (".yamllint", ".yamllint.yaml", ".yamllint.yml")
"""A repository's own configuration of yamllint; the first that is there."""


def paths(files: Collection[str], manifests: Iterable[str]) -> list[str]:
    folders = [posixpath.normpath(folder) for folder in manifests]

    def wanted(path: str) -> bool:
        if path == ".towline.yaml":
            return True
        return path.endswith((".yaml", ".yml")) and any(
            folder == "." or path.startswith(f"{folder}/") for folder in folders
        )

    return sorted(path for path in files if wanted(path))
