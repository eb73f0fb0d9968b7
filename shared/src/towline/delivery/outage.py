"""For how long the bus has not answered a service: said by whoever called it, asked by readiness."""

from __future__ import annotations

import asyncio

_since: dict[str, float] = {}
"""Service → when the first call failed after the last that was answered, on the event loop's clock."""


def failed(service: str) -> None:
    _since.setdefault(service, asyncio.get_running_loop().time())


def answered(service: str) -> None:
    _since.pop(service, None)


def seconds(service: str) -> float:
    """0 while the bus answers."""
    began = _since.get(service)
    return 0.0 if began is None else max(0.0, asyncio.get_running_loop().time() - began)


def is_on(service: str) -> bool:
    """Whether the bus does not answer; may be asked from any thread."""
    return service in _since
