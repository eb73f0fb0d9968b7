"""The registry that `towline up` starts when none is given: images stay in the instance's folder between runs.

Rule: it lives no longer than the process that started it, however that ends.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from towline.errors import BadInput
from towline_cli import lab
from towline_cli.lab import processes, registry
from towline_cli.local import LocalInstance

PROGRAM = "docker-registry"


def install(progress: lab.Progress) -> None:
    """Installs the registry where it is missing and we may; raises BadInput where we may not."""
    if shutil.which(PROGRAM):
        return
    if os.geteuid() != 0:
        raise BadInput(
            f"no registry was given and {PROGRAM} is not installed; give one with --registry host:port, or install it "
            f"as root with: apt-get install {PROGRAM}"
        )
    for sentence in lab.plan({lab.Part.REGISTRY}):
        progress.say(sentence)
    lab.ensure({lab.Part.REGISTRY}, progress)


def address_of(instance: LocalInstance) -> str | None:
    """Where the instance's own registry listens; None when it has none."""
    try:
        found = json.loads((instance.registry / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return str(found["http"]["addr"])


def prepare(instance: LocalInstance) -> str:
    """Gives the instance a registry of its own; returns its address."""
    address = f"127.0.0.1:{instance.free_port('registry')}"
    registry.write_config(instance.registry, address)
    return address


@contextmanager
def running(instance: LocalInstance) -> Iterator[str | None]:
    """Runs the instance's own registry, if it has one."""
    address = address_of(instance)
    if address is None:
        yield None
        return
    log = instance.registry / "registry.log"
    # The kernel ends it when this process dies before it could.
    command: list[str | Path] = ["setpriv", "--pdeathsig", "TERM", PROGRAM, "serve", instance.registry / "config.json"]
    process = processes.start("registry", command, log=log)
    try:
        ready = registry.READY_SECONDS
        processes.wait_for(lambda: registry.is_ready(address), process, log=log, seconds=ready)
        yield address
    finally:
        processes.stop(process)
