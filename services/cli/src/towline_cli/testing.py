"""What tests and benches of the whole way share: a small application on real parts, pushed to as a developer would.

Owns the instance folder, the developer's clone and the objects of one name in the cluster. Rule: `close` takes all
of it away, whatever state `towline up` was left in.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from towline.bus.port import Bus
from towline_cli import lab
from towline_cli.background import Background
from towline_cli.demo.workplace import Workplace
from towline_cli.instances import open_log
from towline_cli.local import LocalInstance, Surroundings

_FILES = {
    ".towline.yaml": """\
version: 1
jobs:
  greeting:
    run: grep -q hello greeting.txt
images:
  @NAME@:
    pins:
      - kustomize: deploy/kustomization.yaml
        image: @NAME@
manifests:
  - deploy
""",
    "Dockerfile": """\
FROM scratch
COPY greeting.txt /greeting.txt
""",
    "greeting.txt": "hello, world 0\n",
    "deploy/kustomization.yaml": """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - settings.yaml
  - deployment.yaml
images:
  - name: @NAME@
    newName: @REGISTRY@/@NAME@
""",
    "deploy/settings.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: @NAME@
data:
  colour: blue
""",
    "deploy/deployment.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: @NAME@
spec:
  replicas: 0
  selector:
    matchLabels:
      app: @NAME@
  template:
    metadata:
      labels:
        app: @NAME@
    spec:
      containers:
        - name: @NAME@
          image: @NAME@
""",
}
"""An image that builds in a moment and no pods: what is looked at here is the way, not the application."""


class WholeWay:
    """All five services in a process of their own, on the registry and the cluster of `parts`.

    The instance's folder lies where TOWLINE_HOME says; `name` also names the application's objects.
    """

    def __init__(self, name: str, parts: lab.Instance, *, bus: str | None = None, webhook: str | None = None) -> None:
        self.name = name
        self.parts = parts
        self.local = LocalInstance(name)
        self.work = Workplace(self.local.folder / "clone", self.local.repository)
        self.towline = Background(self.local)
        self._around = Surroundings(
            registry=parts.registry,
            kubeconfig=parts.kubeconfig,
            bus=bus,
            webhook=webhook,
            kustomize=parts.kustomize,
        )

    def create(self) -> None:
        """Repository, settings and clone; nothing runs yet."""
        self.local.remove()
        self.local.create(self._around, self._write, disposable=True)
        self.work.clone()

    def start(self, env: Mapping[str, str] | None = None, *, timeout: float = 30.0) -> None:
        """Start `towline up`; returns when every service reads its topics."""
        self.towline = Background(self.local, env)
        self.towline.start(timeout)

    async def open_bus(self) -> Bus:
        return await open_log(self.local.config)

    def commit(self, title: str, greeting: str) -> str:
        """A change of what the image holds, on the newest main; returns its head."""
        old = self.work.git("show", "refs/heads/main:greeting.txt", cwd=self.work.remote)
        return self.work.commit(title, {"greeting.txt": (old, greeting)})

    def push(self, topic: str) -> None:
        self.work.push(f"refs/heads/for/main/{topic}")

    def kubectl(self, *words: str) -> str:
        command = [str(self.parts.kubectl), "--kubeconfig", str(self.parts.kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def close(self) -> None:
        self.towline.stop()
        self.kubectl("delete", "application,deployment,configmap", self.name, "--ignore-not-found", "--wait=false")
        self.local.remove()

    def _write(self, tree: Path) -> None:
        for path, text in _FILES.items():
            file = tree / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("@NAME@", self.name).replace("@REGISTRY@", self.parts.registry))
