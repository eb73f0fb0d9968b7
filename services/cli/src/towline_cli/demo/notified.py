"""What a webhook receiver was told, as lines for a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def notified_lines(received: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per notice: severity and title."""
    lines = []
    for event in received:
        data = event.get("data", {}).get("customData", {})
        title, severity = str(data.get("title", "")), str(data.get("severity", "info"))
        lines.append(f"{severity:<8} {title}")
    return lines or ["nothing"]
