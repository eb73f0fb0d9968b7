"""A local instance: a bare Git repository with hooks, and the settings of all services around it.

Owns what `towline up` makes where there is nothing yet. Rule: what is there is used as it is, never overwritten.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from towline_cli.instances import CONFIG, folder


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the instance is told of the world; None where there is none."""

    registry: str
    kubeconfig: Path | None = None
    bus: str | None = None
    webhook: str | None = None
    kustomize: str | None = None


@dataclass(frozen=True, slots=True)
class LocalInstance:
    name: str

    @property
    def folder(self) -> Path:
        return folder(self.name)

    @property
    def config(self) -> Path:
        return self.folder / CONFIG

    @property
    def repository(self) -> Path:
        return self.folder / "git" / "app.git"

    @property
    def log(self) -> Path:
        return self.folder / "towline.log"

    @property
    def ready(self) -> Path:
        return self.folder / "ready"

    def exists(self) -> bool:
        return self.config.exists()
