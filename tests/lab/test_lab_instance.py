"""The lab's own promises: pods really run, instances never meet, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from towline_cli import lab
from towline_cli.lab import network, node, record

pytestmark = pytest.mark.lab
REGISTRY = frozenset({lab.Part.REGISTRY})
CLUSTER = frozenset({lab.Part.REGISTRY, lab.Part.KUBERNETES, lab.Part.BUILDER})


def kubectl(instance: lab.Instance, *words: str) -> str:
    command = [str(instance.kubectl), "--kubeconfig", str(instance.kubeconfig), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_pod(instance: lab.Instance, name: str) -> None:
    script = "import time; time.sleep(600)"
    image = f"--image={instance.base_image}"
    kubectl(instance, "run", name, image, "--restart=Never", "--grace-period=0", "--", "python3", "-c", script)
    kubectl(instance, "wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")


def test_a_pod_from_the_base_image_runs(lab_instance: lab.Instance) -> None:
    run_pod(lab_instance, "runs")

    assert json.loads(kubectl(lab_instance, "get", "pod", "runs", "--output=json"))["status"]["phase"] == "Running"
    kubectl(lab_instance, "delete", "pod", "runs", "--now", "--wait=false")


def test_a_start_that_cannot_make_its_bridge_leaves_nothing() -> None:
    """A bridge whose record was lost with the cache folder made every start fail, and each left its claim."""
    instance = lab.Instance(f"test-{os.getpid()}-bridge")
    bridge = network.bridge_name(instance.folder)
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)

    with pytest.raises(lab.LabError, match="network: `ip link add"):
        instance.start(REGISTRY)

    assert record.read(instance.folder) is None
    assert not Path("/sys/class/net", bridge).exists()
    instance.remove()


def test_two_instances_run_side_by_side_and_the_end_of_one_takes_everything_of_its_own(
    lab_instance: lab.Instance,
) -> None:
    other = lab.Instance(f"test-{os.getpid()}-b")
    other.start(CLUSTER)
    try:
        run_pod(other, "beside")
        assert other.registry != lab_instance.registry
        assert "beside" not in kubectl(lab_instance, "get", "pods", "--output=name")
        found = record.read(other.folder)
        assert found is not None
        links = network.interfaces(found.bridge, found.index)
        assert len(links) == 2, "the bridge and the pod's link"
        groups = node.cgroups(other._layout())
        assert groups
    finally:
        removed = other.remove()

    assert {line.split()[1] for line in removed if line.startswith("process")} == {
        "kubelet",
        "kube-scheduler",
        "kube-controller-manager",
        "containerd",
        "kube-apiserver",
        "node",
        "etcd",
        "registry",
    }
    assert network.interfaces(found.bridge, found.index) == []
    assert not [group for group in groups if group.exists()]
    assert not other.folder.exists()
    assert str(other.folder) not in Path("/proc/self/mountinfo").read_text()
    assert lab_instance.is_running


def test_an_instance_that_somebody_stands_for_is_not_started_twice(lab_instance: lab.Instance) -> None:
    with pytest.raises(lab.AlreadyRunning, match=lab_instance.name):
        lab.Instance(lab_instance.name).start(REGISTRY)


def test_what_a_killed_starter_leaves_is_swept_by_the_next() -> None:
    name = f"swept-{os.getpid()}"
    code = (
        f"import signal; from towline_cli import lab; lab.Instance({name!r}).start({{lab.Part.REGISTRY}}); "
        "print('up', flush=True); signal.pause()"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    with starter.stdout as said:
        assert said.readline() == "up\n"
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    instance = lab.Instance(name)
    assert instance.is_running
    found = record.read(instance.folder)
    assert found is not None

    assert lab.sweep(name) == [name]

    assert not instance.folder.exists()
    assert network.interfaces(found.bridge, found.index) == []
    assert not found.alive


def test_an_instance_left_running_on_purpose_is_not_swept() -> None:
    name = f"detached-{os.getpid()}"
    instance = lab.Instance(name)
    instance.start(REGISTRY)
    instance.detach()
    try:
        assert lab.sweep(name) == []
        assert instance.is_running
    finally:
        instance.remove()


def test_a_part_that_does_not_start_names_its_log_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = lab.Instance(f"broken-{os.getpid()}")
    monkeypatch.setattr("towline_cli.lab.registry.config", lambda *_: "{}")

    with pytest.raises(lab.LabError, match="registry: ended before it was ready") as raised:
        instance.start(REGISTRY)

    try:
        assert raised.value.log == instance.log("registry")
        assert instance.log("registry").exists()
        assert not instance.is_running
        assert not instance.state.exists()
    finally:
        instance.remove()


def test_kafka_takes_connections(kafka_address: str) -> None:
    host, _, port = kafka_address.partition(":")

    socket.create_connection((host, int(port)), timeout=2).close()
