"""Owns the instance's image registry: plain HTTP on loopback, images in a folder, deletion allowed."""

from __future__ import annotations

import http.client
import json
import secrets
from typing import TYPE_CHECKING

from towline_cli.lab import processes

if TYPE_CHECKING:
    from pathlib import Path

    from towline_cli.lab.layout import Layout
    from towline_cli.lab.processes import Started

PART = "registry"
READY_SECONDS = 15.0


def config(address: str, images: Path, secret: str) -> str:
    """The registry's configuration. No cache of blob descriptors: it outlives a deletion."""
    content = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(images)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": address, "secret": secret},
    }
    return json.dumps(content, indent=1)


def write_config(folder: Path, address: str) -> Path:
    """Writes the configuration of a registry that listens on `address` and keeps its images in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.json"
    file.write_text(config(address, folder / "images", secrets.token_hex(16)), encoding="utf-8")
    return file


def is_ready(address: str) -> bool:
    """Whether it answers."""
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


def start(layout: Layout) -> Started:
    """Starts the registry."""
    file = write_config(layout.state / "registry", layout.registry)
    return processes.start(PART, ["docker-registry", "serve", file], log=layout.log(PART))


def await_ready(layout: Layout, process: Started) -> None:
    """Returns once it answers."""
    processes.wait_for(lambda: is_ready(layout.registry), process, log=layout.log(PART), seconds=READY_SECONDS)
