"""Named instances of Towline on this machine, each a folder with its `towline.yaml`.

The folder is `$TOWLINE_HOME`, or `towline` under the user's state folder. Rule: a command that is told neither
`--config` nor `--name` works on the `towline.yaml` of the working folder, else on the only instance there is, and
otherwise says which there are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from towline.errors import BadInput

if TYPE_CHECKING:
    from towline.bus.port import Bus
    from towline.bus.settings import KafkaSettings

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
CONFIG = "towline.yaml"
READY = "ready"
"""Beside the settings while the instance runs: the address of its health."""
_ANSWER_SECONDS = 1.0


def home() -> Path:
    if told := os.environ.get("TOWLINE_HOME"):
        return Path(told)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "towline"


def folder(name: str) -> Path:
    """Raises BadInput for a name that could leave the home folder."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no instance name; expected up to 31 lower-case letters, digits and dashes")
    return home() / name


def names() -> list[str]:
    return sorted(path.parent.name for path in home().glob(f"*/{CONFIG}"))


def config_of(config: Path | None, name: str | None) -> Path:
    """The settings file that a command shall use; raises BadInput with what there is to choose from."""
    if config is not None:
        return config
    if name is not None:
        found = folder(name) / CONFIG
        if not found.exists():
            raise BadInput(f"there is no instance {name!r}; there are: {', '.join(names()) or 'none'}")
        return found
    if Path(CONFIG).exists():
        return Path(CONFIG)
    there = names()
    if len(there) == 1:
        return folder(there[0]) / CONFIG
    if not there:
        raise BadInput(
            "no instance of Towline is known here; start one with `towline up`, or name a file with --config"
        )
    raise BadInput(f"there are several instances, name one with --name: {', '.join(there)}")


def bus_of(config: Path) -> str:
    """The bus that the file names, without loading every service's settings."""
    import yaml

    try:
        loaded = yaml.safe_load(config.read_text())
    except FileNotFoundError:
        raise BadInput(f"there is no settings file {config}") from None
    except yaml.YAMLError:
        raise BadInput(f"{config} is not YAML; `towline run` says where") from None
    if not isinstance(loaded, dict | None):
        raise BadInput(f"{config} is no mapping of settings; `towline run` says what was expected")
    told = os.environ.get("TOWLINE_BUS") or (loaded or {}).get("bus")
    return str(told) if told else "sqlite:///towline-data/bus.db"


async def open_log(config: Path) -> Bus:
    """The bus of a settings file, opened. Raises BadInput, Permanent, BusDown."""
    from towline.bus.open import open_bus

    url = bus_of(config)
    kafka = kafka_of(config) if url.startswith("kafka:") else None
    return await open_bus(url, kafka=kafka)


def kafka_of(config: Path) -> KafkaSettings:
    """Only for a bus that needs it: it costs the models, and `status` on SQLite answers without them."""
    from towline.bus.settings import BusSettings
    from towline.settings import PREFIX, load

    told = {n: v for n, v in os.environ.items() if n == f"{PREFIX}BUS" or n.startswith(f"{PREFIX}KAFKA__")}
    return load(BusSettings, config, told).kafka


def waits_of(config: Path) -> list[str]:
    """What a running instance waits for outside of it, one sentence each; empty also where none runs."""
    try:
        address = (config.parent / READY).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return []
    import http.client

    connection = http.client.HTTPConnection(address, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException, ValueError):
        return []  # it was killed, and the file is left over
    finally:
        connection.close()
    return [line for line in said.splitlines() if line != "ok"]
