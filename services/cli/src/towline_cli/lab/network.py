"""Owns an instance's addresses: its ports on loopback, its bridge, its node and pod subnets.

The rule that must hold: an instance takes only what nobody holds, and its removal takes away only what lies in its
own subnets. One lock of the whole machine covers the choice, whatever cache folder an instance lives in.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from towline_cli.lab.command import run
from towline_cli.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

PART = "network"
LOCK = Path("/run/lock/towline-lab.lock")
LINKS = Path("/sys/class/net")
# Below the range that the kernel gives to outgoing connections, so that none of those takes a chosen port.
PORTS = range(20000, 32000)
SUBNETS = 127
BLOCK = "10.213"


@contextmanager
def machine_lock() -> Iterator[None]:
    """Only one process of this machine chooses addresses at a time."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def seed_of(text: str) -> int:
    """A number that follows from `text`: where its search for free addresses begins."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def bridge_name(folder: Path) -> str:
    """Interface name of the instance in `folder`; at most 15 characters, as the kernel wants."""
    return f"tl-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"


def node_subnet(index: int) -> ipaddress.IPv4Network:
    """Where the node has its address, the first one."""
    return ipaddress.IPv4Network(f"{BLOCK}.{2 * index}.0/24")


def pod_subnet(index: int) -> ipaddress.IPv4Network:
    """Where pods get theirs."""
    return ipaddress.IPv4Network(f"{BLOCK}.{2 * index + 1}.0/24")


def node_address(index: int) -> str:
    """The kubelet refuses a loopback address: this is the bridge's."""
    return str(node_subnet(index)[1])


def free_index(taken: Iterable[ipaddress.IPv4Network], seed: int) -> int:
    """First index at or after `seed` (round the end) whose two subnets overlap nothing in `taken`."""
    held = list(taken)
    for step in range(SUBNETS):
        index = (seed + step) % SUBNETS
        ours = (node_subnet(index), pod_subnet(index))
        if not any(mine.overlaps(other) for mine in ours for other in held):
            return index
    raise LabError(PART, f"all subnets of {BLOCK}.0.0/16 are in use on this machine.", remedy="`make down` frees ours.")


def free_port(taken: Collection[int], seed: int) -> int:
    """First port at or after `seed` (round the end) that is not in `taken` and can be bound on 127.0.0.1."""
    for step in range(len(PORTS)):
        port = PORTS[(seed + step) % len(PORTS)]
        if port not in taken and _can_bind(port):
            return port
    raise LabError(PART, "no port is free on 127.0.0.1.", remedy="`ss -ltn` shows what holds them.")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connection only just closed is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _ip(*words: str) -> list[dict[str, Any]]:
    said = run(PART, ["ip", "-j", "-4", *words])
    return list(json.loads(said or "[]"))


def taken_networks() -> list[ipaddress.IPv4Network]:
    """Every IPv4 network that an address or a route of this machine covers, the default route apart."""
    found = [
        ipaddress.IPv4Network(f"{address['local']}/{address['prefixlen']}", strict=False)
        for link in _ip("addr", "show")
        for address in link.get("addr_info", [])
        if "local" in address
    ]
    routes = (route["dst"] for route in _ip("route", "show") if route.get("dst", "default") != "default")
    return found + [ipaddress.IPv4Network(route, strict=False) for route in routes]


def make_bridge(name: str, index: int) -> None:
    """Makes the bridge that carries the node's address."""
    prefix = node_subnet(index).prefixlen
    run(PART, ["ip", "link", "add", name, "type", "bridge"])
    run(PART, ["ip", "addr", "add", f"{node_address(index)}/{prefix}", "dev", name])
    run(PART, ["ip", "link", "set", name, "up"])


def interfaces(bridge: str, index: int) -> list[str]:
    """The bridge, and the host's end of every pod's link: known by an address in the pod subnet."""
    pods = pod_subnet(index)
    found = [
        str(link["ifname"])
        for link in _ip("addr", "show")
        if link.get("ifname") != bridge
        and any(ipaddress.IPv4Address(address["local"]) in pods for address in link.get("addr_info", []))
    ]
    # A bridge whose making was cut short has no address to be listed by.
    return [bridge, *found] if (LINKS / bridge).exists() else found


def remove_interfaces(bridge: str, index: int) -> list[str]:
    """Takes away this instance's interfaces; returns their names. One that is gone already is no error."""
    names = interfaces(bridge, index)
    for name in names:
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
    return names
