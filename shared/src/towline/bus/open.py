"""From a URL to a bus: `sqlite:///relative/path`, `sqlite:////absolute/path`, `kafka://host:port,host:port`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from towline.bus.port import Bus
from towline.errors import BadInput, redact

if TYPE_CHECKING:
    from towline.bus.settings import KafkaSettings

_ACCEPTED = "sqlite:///relative/path, sqlite:////absolute/path or kafka://host:port,host:port"
_SQLITE_OPTIONS = {"network=accepted": "on_network", "transactions=single": "single"}


async def open_bus(url: str, *, partitions: int = 12, kafka: KafkaSettings | None = None) -> Bus:
    """Open the bus that the URL names; the Kafka client is loaded only for kafka://, and `kafka` is only for it.

    `partitions` is what the caller's topics will have, checked here so that a bad setting names itself.
    Raises BadInput, BusDown, Permanent.
    """
    if not 1 <= partitions <= 1000:
        raise BadInput(f"bus partitions are {partitions}: expected 1 to 1000, equal for every service")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise BadInput(f"bus {redact(url)!r} is no URL: expected {_ACCEPTED}")
    if scheme == "sqlite":
        from towline.bus.sqlite import SqliteBus

        path, options = sqlite_file(url)
        return await SqliteBus.open(path, **options)
    if scheme == "kafka":
        from towline.bus.kafka import KafkaBus

        return await KafkaBus.open(rest, kafka)
    raise BadInput(f"bus {redact(url)!r} has the unknown scheme {scheme!r}: expected {_ACCEPTED}")


def sqlite_file(url: str) -> tuple[Path, dict[str, bool]]:
    """The file that a sqlite:// URL names, and what it says of how to open it. Raises BadInput.

    `?network=accepted` takes a file system between machines, `?transactions=single` is for crash tests.
    """
    rest, _, query = url.removeprefix("sqlite://").partition("?")
    if not rest.startswith("/") or len(rest) < 2:
        raise BadInput(f"bus {redact(url)!r} names no file: expected sqlite:///relative or sqlite:////absolute")
    options = {}
    for part in filter(None, query.split("&")):
        if part not in _SQLITE_OPTIONS:
            raise BadInput(
                f"bus {redact(url)!r} has the unknown option {redact(part)!r}: expected "
                f"{' or '.join(_SQLITE_OPTIONS)}; a question mark in a file's name is written %3F"
            )
        options[_SQLITE_OPTIONS[part]] = True
    return Path(unquote(rest[1:])), options
