"""Owns Kafka's jars and the formatted, empty log directory that every broker starts from."""

from __future__ import annotations

import base64
import hashlib
import shutil
import string
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab.cache import is_current, key_of
from towline_cli.lab.command import run

if TYPE_CHECKING:
    from towline_cli.lab.cache import Cache

PART = "kafka"
SOURCE = Path(__file__).parent / "parts" / "kafka"
POM, PROPERTIES = SOURCE / "pom.xml", SOURCE / "server.properties"


def server_properties(*, port: int, controller_port: int, data: Path) -> str:
    """The broker's configuration with this instance's ports and log directory."""
    template = string.Template(PROPERTIES.read_text(encoding="utf-8"))
    return template.substitute(port=port, controller_port=controller_port, data=data)


def cluster_id(name: str) -> str:
    """A Kafka cluster id (16 bytes, URL-safe, unpadded) that follows from `name`."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()[:16]).rstrip(b"=").decode()


def _key() -> str:
    return key_of(POM, PROPERTIES)


def is_there(cache: Cache) -> bool:
    """Whether the jars are fetched and the empty log directory is formatted."""
    return is_current(cache.kafka / "kafka.key", _key()) and (cache.kafka / "formatted").is_dir()


def install(cache: Cache) -> None:
    """Fetches the jars with Maven and formats an empty log directory once, so that no start has to."""
    if is_there(cache):
        return
    shutil.rmtree(cache.kafka, ignore_errors=True)
    cache.kafka.mkdir(parents=True)
    libs, formatted, log = cache.kafka / "libs", cache.kafka / "formatted", cache.logs / "kafka.log"
    maven: list[str | Path] = ["mvn", "-q", "-B", "-f", POM, f"-Dmaven.repo.local={cache.maven}"]
    run(PART, [*maven, "dependency:copy-dependencies", f"-DoutputDirectory={libs}"], log=log)
    properties = cache.kafka / "format.properties"
    # Formatting opens no port: any two different numbers do.
    properties.write_text(server_properties(port=1, controller_port=2, data=formatted), encoding="utf-8")
    tool = ["java", "-cp", f"{libs}/*", "kafka.tools.StorageTool", "format"]
    run(PART, [*tool, "-t", cluster_id("towline"), "-c", properties], log=log)
    (cache.kafka / "kafka.key").write_text(_key(), encoding="ascii")
