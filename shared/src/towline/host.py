"""What the composition root hands to every service when it builds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from towline.store import ArtifactStore


@dataclass(frozen=True, slots=True)
class Host:
    store: ArtifactStore
    folder: Path
    """The service's own: mirrors, scratch. Survives restarts; may be lost, and is then rebuilt from the truth."""
