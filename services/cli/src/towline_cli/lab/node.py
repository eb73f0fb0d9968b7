"""Owns the namespace that a node lives in: processes and mounts of its own, on the machine's network.

The rule that must hold: when the namespace's first process ends, the kernel ends containerd, the kubelet and every
pod with it and takes their mounts away, however untidy the end was. Nothing the node writes to /run, /var/log,
/var/lib/kubelet, /var/lib/cni or to the kernel's settings reaches the machine's own.
"""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab import processes
from towline_cli.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towline_cli.lab.layout import Layout
    from towline_cli.lab.processes import Started

PART = "node"
CGROUPS = Path("/sys/fs/cgroup")
# containerd's name for everything it runs for a kubelet.
NAMESPACE = "k8s.io"
# Covered inside the node by folders of the instance.
COVERED = {"run": "/run", "log": "/var/log", "kubelet": "/var/lib/kubelet", "cni": "/var/lib/cni"}
# What the kubelet and the network plugin want the kernel's settings to be: inside the node they read and write these.
SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
    "net/ipv4/ip_forward": "1",
}
READY_SECONDS = 10.0


def script(folder: Path, first: Path) -> str:
    """Shell text that covers the machine's folders and settings with those in `folder`, then becomes `first`."""
    lines = ["set -eu", "mount --make-rshared /"]
    for name in SETTINGS:
        source, target = folder / "settings" / name.replace("/", "."), f"/proc/sys/{name}"
        lines.append(f"mount --bind {shlex.quote(str(source))} {target}")
    lines += [f"mount --bind {shlex.quote(str(folder / name))} {target}" for name, target in COVERED.items()]
    lines += [f": > {shlex.quote(str(folder / 'ready'))}", f"exec {shlex.quote(str(first))}"]
    return "\n".join(lines)


def prepare(layout: Layout) -> None:
    """Makes the folders and files that the namespace mounts."""
    covered = [Path(target) for target in COVERED.values()]
    if any(layout.folder.is_relative_to(target) for target in covered):
        places = ", ".join(COVERED.values())
        raise LabError(PART, f"the cache folder {layout.cache.folder} must not lie below any of {places}.")
    for target in covered:
        target.mkdir(parents=True, exist_ok=True)
    for name in (*COVERED, "settings", "run/lock"):
        (layout.node / name).mkdir(parents=True, exist_ok=True)
    for name, value in SETTINGS.items():
        (layout.node / "settings" / name.replace("/", ".")).write_text(value + "\n", encoding="ascii")


def start_namespace(layout: Layout) -> Started:
    """Starts the namespace with the pause program as its first process."""
    ready = layout.node / "ready"
    ready.unlink(missing_ok=True)
    text = script(layout.node, layout.cache.bin / "pause")
    own = ("--mount", "--pid", "--ipc", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--propagation=private")
    return processes.start(PART, ["unshare", *own, "sh", "-c", text], log=layout.log(PART))


def await_namespace(layout: Layout, namespace: Started) -> None:
    """Returns once its mounts are made."""
    ready = layout.node / "ready"
    processes.wait_for(ready.exists, namespace, log=layout.log(PART), seconds=READY_SECONDS)


def inside(namespace: Started, command: Sequence[str | Path]) -> list[str | Path]:
    """`command` as it runs inside the namespace."""
    spaces = Path("/proc") / str(namespace.pid) / "ns"
    own = (f"--mount={spaces}/mnt", f"--pid={spaces}/pid_for_children", f"--ipc={spaces}/ipc")
    return ["nsenter", *own, "--", *command]


def stop_namespace(namespace: Started) -> bool:
    """Ends the first process, and with it everything inside; returns once all of it is gone."""
    if processes.is_alive(namespace):
        for pid in processes.children_of(namespace.pid):
            start = processes.start_of(pid)
            if start is not None:
                # The kernel lets the first process go only after everybody else inside is gone.
                with suppress(LabError):
                    processes.stop(processes.Started(f"{namespace.name} init", pid, start))
    return processes.stop(namespace)


def cgroups(layout: Layout) -> list[Path]:
    """This instance's control groups that exist: one folder each on version 2, one per controller on version 1.

    containerd puts a container into `k8s.io/<id>`, beside those of any other containerd of this machine: its own
    task folder says which are ours.
    """
    tasks = layout.node / "run" / "containerd" / "io.containerd.runtime.v2.task" / NAMESPACE
    ours = [f"{NAMESPACE}/{task.name}" for task in tasks.glob("*")] if tasks.is_dir() else []
    found = [root / name for root in (CGROUPS, *CGROUPS.glob("*/")) for name in (*ours, layout.cgroup)]
    return [place for place in found if place.is_dir()]


def remove_cgroups(layout: Layout) -> list[str]:
    """Removes the (empty) control groups that pods leave; returns their names, of a container its id."""
    removed = set()
    for place in cgroups(layout):
        for below, _, _ in os.walk(place, topdown=False):
            with suppress(OSError):
                Path(below).rmdir()
        if not place.exists():
            removed.add(place.name)
            # The folder that all containerds share goes with its last member; the kernel refuses it before.
            if place.parent.name == NAMESPACE:
                with suppress(OSError):
                    place.parent.rmdir()
    return sorted(removed)
