"""What several commands take, said once. Light: every command line loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SERVICES = ("git-watcher", "ci-runner", "image-builder", "reconciler", "notifier")

Config = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file; see docs/settings.md.")]
Name = Annotated[str | None, typer.Option("--name", "-n", help="Instance, as `towline up` named it.")]
