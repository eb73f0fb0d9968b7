"""Owns the instance's Kafka: one broker that is its own controller, on loopback."""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

from towline_cli.lab import kafka_listeners, processes
from towline_cli.lab.kafka_jars import server_properties

if TYPE_CHECKING:
    from pathlib import Path

    from towline_cli.lab.kafka_listeners import KafkaListeners
    from towline_cli.lab.layout import Layout
    from towline_cli.lab.processes import Started

PART = "kafka"
READY_SECONDS = 60.0
# Small on purpose: the broker shares a small machine with a whole cluster.
JAVA = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")


def start(layout: Layout, listeners: KafkaListeners | None = None) -> Started:
    """Starts the broker: the first time on an empty log directory that was formatted when Kafka was installed, later
    on what it left. `listeners` are added to the plain one."""
    folder, prepared = layout.state / "kafka", layout.cache.kafka
    data, config = folder / "data", folder / "server.properties"
    folder.mkdir(parents=True, exist_ok=True)
    ports = layout.ports
    text = server_properties(port=ports["kafka"], controller_port=ports["kafka-controller"], data=data)
    config.write_text(text + (kafka_listeners.properties(listeners, ports) if listeners else ""), encoding="utf-8")
    if not data.exists():
        if listeners is not None:
            kafka_listeners.format_with_users(prepared / "libs", config, listeners)
        else:
            shutil.copytree(prepared / "formatted", data)
    command: list[str | Path] = [
        "java",
        *JAVA,
        "-cp",
        f"{prepared / 'libs'}/*",
        "kafka.Kafka",
        config,
    ]
    return processes.start(PART, command, log=layout.log(PART), cwd=folder)


def is_ready(layout: Layout) -> bool:
    """Whether it takes connections."""
    try:
        socket.create_connection(("127.0.0.1", layout.ports["kafka"]), timeout=2).close()
    except OSError:
        return False
    return True


def await_ready(layout: Layout, process: Started) -> None:
    """Returns once it takes connections."""
    processes.wait_for(lambda: is_ready(layout), process, log=layout.log(PART), seconds=READY_SECONDS)
