"""Owns the folders and addresses of one instance, as the starters of its parts see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from towline_cli.lab import network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from towline_cli.lab.cache import Cache

# Every port an instance has from the start; others are added by name when somebody asks.
PORT_NAMES = (
    *("registry", "kubernetes", "etcd", "etcd-peer"),
    *("kafka", "kafka-controller", "kafka-tls", "kafka-mutual", "kafka-sasl", "kafka-clear"),
)


@dataclass(frozen=True)
class Layout:
    """Where one instance lives. `state` is removed when it stops, `logs` is kept until it is taken down."""

    name: str
    folder: Path
    cache: Cache
    index: int
    bridge: str
    ports: Mapping[str, int]

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def kube(self) -> Path:
        """The control plane's files."""
        return self.state / "kube"

    @property
    def node(self) -> Path:
        """The node's files; parts of it are mounted over the machine's own folders inside the node."""
        return self.state / "node"

    @property
    def kubeconfig(self) -> Path:
        return self.kube / "kubeconfig"

    @property
    def node_address(self) -> str:
        return network.node_address(self.index)

    @property
    def cgroup(self) -> str:
        """Name of the control group that all pods of this instance are below."""
        return f"towline-{self.bridge}"

    @property
    def registry(self) -> str:
        return f"127.0.0.1:{self.ports['registry']}"

    @property
    def kafka(self) -> str:
        return f"127.0.0.1:{self.ports['kafka']}"

    def log(self, part: str) -> Path:
        return self.folder / "logs" / f"{part}.log"
