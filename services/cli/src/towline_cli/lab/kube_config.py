"""Owns the configuration that each part of the one-node Kubernetes is started with, as text. No I/O."""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING

from towline_cli.lab import network

if TYPE_CHECKING:
    from pathlib import Path

    from towline_cli.lab.layout import Layout

NODE = "lab"
SERVICES = "10.96.0.0/24"
# Inside the node: the instance's own folders are mounted here, so that two nodes on one machine never meet.
SOCKET = "/run/containerd/containerd.sock"


def kubeconfig(layout: Layout, token: str) -> str:
    """For the node's parts and for whoever uses the cluster: an administrator's."""
    cluster = {
        "server": f"https://127.0.0.1:{layout.ports['kubernetes']}",
        "certificate-authority": str(layout.kube / "certs" / "apiserver.crt"),
    }
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
        "current-context": "lab",
    }
    return json.dumps(content, indent=1)  # JSON is YAML


def cni(layout: Layout) -> str:
    """One point-to-point link per pod; no address translation, so nothing is added to the machine's firewall."""
    subnet = network.pod_subnet(layout.index)
    ipam = {"type": "host-local", "subnet": str(subnet), "routes": [{"dst": str(ipaddress.IPv4Network("0.0.0.0/0"))}]}
    plugins = [{"type": "ptp", "ipMasq": False, "ipam": ipam}]
    return json.dumps({"cniVersion": "1.0.0", "name": layout.bridge, "plugins": plugins})


def containerd(layout: Layout) -> str:
    """Everything of containerd's below the node's own folders; no plugin that looks for storage it does not use."""
    unused = ("aufs", "btrfs", "devmapper", "zfs")
    disabled = ", ".join(f'"io.containerd.snapshotter.v1.{name}"' for name in unused)
    return f"""version = 2
root = "{layout.node}/containerd"
state = "/run/containerd"
disabled_plugins = [{disabled}, "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.node}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{layout.registry}/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.node}/cni-conf"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{layout.node}/registries"
"""


def registry_hosts(layout: Layout) -> str:
    """Lets pods pull from the instance's registry over plain HTTP."""
    return f"""server = "http://{layout.registry}"
[host."http://{layout.registry}"]
  capabilities = ["pull", "resolve"]
"""


def kubelet(layout: Layout) -> str:
    """Runs on control groups v1 and v2, leaves the machine's firewall and disk thresholds alone."""
    # Only who holds the API server's client certificate may speak to it: a pod can reach this port.
    callers = {
        "anonymous": {"enabled": False},
        "webhook": {"enabled": False},
        "x509": {"clientCAFile": str(layout.kube / "kubelet-client.crt")},
    }
    content = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "cgroupRoot": f"/{layout.cgroup}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "makeIPTablesUtilChains": False,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "authentication": callers,
        "authorization": {"mode": "AlwaysAllow"},
        "address": layout.node_address,
        "healthzPort": 0,
        "readOnlyPort": 0,
        "resolvConf": f"{layout.node}/resolv.conf",
        "nodeStatusUpdateFrequency": "5s",
    }
    return json.dumps(content, indent=1)


def etcd_command(layout: Layout) -> list[str | Path]:
    """etcd without syncs: what it holds is thrown away with the instance."""
    client = f"http://127.0.0.1:{layout.ports['etcd']}"
    peer = f"http://127.0.0.1:{layout.ports['etcd-peer']}"
    return [
        layout.cache.bin / "etcd",
        f"--data-dir={layout.kube}/etcd",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def api_server_command(layout: Layout) -> list[str | Path]:
    key = layout.kube / "sa.key"
    return [
        layout.cache.bin / "kube-apiserver",
        f"--etcd-servers=http://127.0.0.1:{layout.ports['etcd']}",
        "--bind-address=127.0.0.1",
        f"--advertise-address={layout.node_address}",
        f"--secure-port={layout.ports['kubernetes']}",
        f"--cert-dir={layout.kube}/certs",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--token-auth-file={layout.kube}/tokens.csv",
        "--authorization-mode=RBAC",
        f"--service-cluster-ip-range={SERVICES}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-client-certificate={layout.kube}/kubelet-client.crt",
        f"--kubelet-client-key={layout.kube}/kubelet-client.key",
    ]


def controllers_command(layout: Layout) -> list[str | Path]:
    return [
        layout.cache.bin / "kube-controller-manager",
        f"--kubeconfig={layout.kubeconfig}",
        "--leader-elect=false",
        "--secure-port=0",
        f"--service-account-private-key-file={layout.kube}/sa.key",
        f"--root-ca-file={layout.kube}/certs/apiserver.crt",
    ]


def scheduler_command(layout: Layout) -> list[str | Path]:
    binary = layout.cache.bin / "kube-scheduler"
    return [binary, f"--kubeconfig={layout.kubeconfig}", "--leader-elect=false", "--secure-port=0"]


def kubelet_command(layout: Layout) -> list[str | Path]:
    return [
        layout.cache.bin / "kubelet",
        f"--config={layout.node}/kubelet.json",
        f"--kubeconfig={layout.kubeconfig}",
        "--root-dir=/var/lib/kubelet",
        f"--hostname-override={NODE}",
        f"--node-ip={layout.node_address}",
    ]
