"""How a figure is said: one JSON object per line, judged against its limit."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence


def say(
    figure: str,
    value: float,
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
    floor: float | None = None,
    peer: float | None = None,
    least_ratio: float | None = None,
    **more: float | int | str,
) -> bool:
    """`most` or `least` is the limit of the value, `least_ratio` one of its ratio to the peer. True when within."""
    line: dict[str, object] = {"figure": figure, "value": round(value, 2), "unit": unit}
    beside = floor if floor is not None else peer
    if beside is not None:
        line |= {"floor" if floor is not None else "peer": round(beside, 2), "ratio": round(value / beside, 3)}
    limit = most if most is not None else least
    ok = limit is None or (value <= limit if most is not None else value >= limit)
    if least_ratio is not None and beside is not None:
        ok = ok and value / beside >= least_ratio
        more = {**more, "least_ratio": round(least_ratio, 3)}
    if limit is not None:
        line["limit"] = limit
    print(json.dumps({**line, "ok": ok, **more}), flush=True)
    return ok


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
