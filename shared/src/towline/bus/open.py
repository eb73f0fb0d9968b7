"""From a URL to a bus: `sqlite:///relative/path`, `sqlite:////absolute/path`, `kafka://host:port,host:port`."""

from __future__ import annotations

from urllib.parse import unquote

from towline.bus.port import Bus
from towline.errors import BadInput, redact

_ACCEPTED = "sqlite:///relative/path, sqlite:////absolute/path or kafka://host:port,host:port"


async def open_bus(url: str, *, partitions: int = 12) -> Bus:
    """Open the bus that the URL names; the Kafka client is loaded only for kafka://.

    `partitions` is what the caller's topics will have, checked here so that a bad setting names itself.
    Raises BadInput, BusDown, Permanent.
    """
    if not 1 <= partitions <= 1000:
        raise BadInput(f"bus partitions are {partitions}: expected 1 to 1000, equal for every service")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise BadInput(f"bus {redact(url)!r} is no URL: expected {_ACCEPTED}")
    if scheme == "sqlite":
        if not rest.startswith("/") or len(rest) < 2:
            raise BadInput(f"bus {redact(url)!r} names no file: expected sqlite:///relative or sqlite:////absolute")
        from towline.bus.sqlite import SqliteBus

        return await SqliteBus.open(unquote(rest[1:]))
    if scheme == "kafka":
        from towline.bus.kafka import KafkaBus

        return await KafkaBus.open(rest)
    raise BadInput(f"bus {redact(url)!r} has the unknown scheme {scheme!r}: expected {_ACCEPTED}")
