"""Owns starting the one-node Kubernetes: etcd, API server, controllers, scheduler, containerd, kubelet.

The rule that must hold: "started" means a pod can be created now: the node is Ready and untainted and the default
service account of the default namespace is there.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
from typing import TYPE_CHECKING, Any

from towline_cli.lab import kube_config, node, processes
from towline_cli.lab.command import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from towline_cli.lab.layout import Layout
    from towline_cli.lab.processes import Started

PART = "kubernetes"
READY_SECONDS = 60.0


class Api:
    """The few reads of the API server that waiting needs."""

    def __init__(self, layout: Layout, token: str) -> None:
        self._port, self._ca = layout.ports["kubernetes"], layout.kube / "certs" / "apiserver.crt"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._context: ssl.SSLContext | None = None

    def get(self, path: str) -> dict[str, Any] | str | None:
        """The JSON object (or text) at `path`; None when the server does not answer with 200."""
        try:
            if self._context is None:
                self._context = ssl.create_default_context(cafile=str(self._ca))
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=5, context=self._context)
            try:
                connection.request("GET", path, headers=self._headers)
                response = connection.getresponse()
                text = response.read().decode()
            finally:
                connection.close()
        except OSError:
            return None
        if response.status != http.client.OK:
            return None
        return dict(json.loads(text)) if text.startswith("{") else text

    def is_ready(self) -> bool:
        return self.get("/readyz") == "ok"

    def takes_pods(self) -> bool:
        account = self.get("/api/v1/namespaces/default/serviceaccounts/default")
        found = self.get(f"/api/v1/nodes/{kube_config.NODE}")
        return isinstance(account, dict) and isinstance(found, dict) and is_schedulable(found)


def is_schedulable(node_object: dict[str, Any]) -> bool:
    """Whether the node says Ready and carries no taint."""
    conditions = node_object.get("status", {}).get("conditions", [])
    is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return is_ready and not node_object.get("spec", {}).get("taints")


def prepare(layout: Layout) -> str:
    """Writes keys and configuration; returns the administrator's token."""
    layout.kube.mkdir(parents=True, exist_ok=True)
    layout.kube.chmod(0o700)
    token = secrets.token_hex(16)
    curve = "ec_paramgen_curve:prime256v1"
    key, crt, account = (layout.kube / name for name in ("kubelet-client.key", "kubelet-client.crt", "sa.key"))
    run(PART, ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", account])
    who = "/O=system:masters/CN=kube-apiserver"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-days", "3650"]
    run(PART, [*request, "-subj", who, "-keyout", key, "-out", crt])
    node.prepare(layout)
    registries = layout.node / "registries" / layout.registry
    for folder in (registries, layout.node / "cni-conf"):
        folder.mkdir(parents=True, exist_ok=True)
    texts = {
        layout.kube / "tokens.csv": f"{token},admin,admin,system:masters\n",
        layout.kubeconfig: kube_config.kubeconfig(layout, token),
        layout.node / "cni-conf" / "10-towline.conflist": kube_config.cni(layout),
        layout.node / "containerd.toml": kube_config.containerd(layout),
        registries / "hosts.toml": kube_config.registry_hosts(layout),
        layout.node / "kubelet.json": kube_config.kubelet(layout),
        layout.node / "resolv.conf": "",
    }
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    layout.kubeconfig.chmod(0o600)
    return token


def start_control_plane(layout: Layout, api: Api, note: Callable[[Started], Started]) -> None:
    """etcd and the API server at once (it waits for etcd by itself), then what needs its certificate."""
    note(processes.start("etcd", kube_config.etcd_command(layout), log=layout.log("etcd")))
    command = kube_config.api_server_command(layout)
    server = note(processes.start("kube-apiserver", command, log=layout.log("kube-apiserver")))
    log = layout.log("kube-apiserver")
    processes.wait_for(api.is_ready, server, log=log, seconds=READY_SECONDS)
    for name, words in (
        ("kube-controller-manager", kube_config.controllers_command(layout)),
        ("kube-scheduler", kube_config.scheduler_command(layout)),
    ):
        note(processes.start(name, words, log=layout.log(name)))


def start_node(layout: Layout, note: Callable[[Started], Started]) -> Started:
    """The node's namespace with containerd in it, once that listens; returns the namespace."""
    namespace = note(node.start_namespace(layout))
    node.await_namespace(layout, namespace)
    command = node.inside(namespace, ["containerd", "--config", layout.node / "containerd.toml"])
    containerd = note(processes.start("containerd", command, log=layout.log("containerd")))
    socket = layout.node / "run" / "containerd" / "containerd.sock"
    processes.wait_for(socket.is_socket, containerd, log=layout.log("containerd"), seconds=READY_SECONDS)
    return namespace


def start_kubelet(layout: Layout, namespace: Started, api: Api, note: Callable[[Started], Started]) -> None:
    """The kubelet; returns once a pod can be created."""
    command = node.inside(namespace, kube_config.kubelet_command(layout))
    kubelet = note(processes.start("kubelet", command, log=layout.log("kubelet")))
    log = layout.log("kubelet")
    processes.wait_for(api.takes_pods, kubelet, log=log, seconds=READY_SECONDS, what="a Ready node")
