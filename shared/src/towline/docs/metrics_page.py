"""The table of metrics for `docs/operate/lag.md`, from the registry itself."""

from __future__ import annotations

from collections.abc import Mapping

from towline.telemetry import metrics


def sections() -> Mapping[str, str]:
    lines = ["| metric | kind | labels | means |", "|---|---|---|---|"]
    lines += [
        f"| `{each.name}` | {each.kind} | {', '.join(each.labels)} | {each.text} |" for each in metrics.described()
    ]
    return {"metrics": "\n".join(lines)}
