"""The configuration check with the real Kustomize, in its jail: mistakes are told where their author wrote them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

import pytest

from towline import snapshot
from towline.cgroup import Limits, hierarchy
from towline.jail import JAIL_UID
from towline_ci_runner.checks.process import Parts, Worker, jailed
from towline_cli import lab

pytestmark = pytest.mark.lab
MIB = 1 << 20
DEPLOYMENT = b"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
spec:
  replicas: 1
  selector:
    matchLabels: {app: hello}
  template:
    metadata:
      labels: {app: hello}
    spec:
      containers:
        - name: hello
          image: hello
"""
BASE = {
    "base/kustomization.yaml": b"resources:\n- app.yaml\n",
    "base/app.yaml": DEPLOYMENT,
    "deploy/kustomization.yaml": b"namePrefix: my-\nresources:\n- ../base\npatches:\n- path: patch.yaml\n"
    b"images:\n- name: hello\n  newName: registry.example/hello\n  digest: sha256:" + b"0" * 64 + b"\n",
    "deploy/patch.yaml": b"apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: hello\nspec:\n  paused: true\n",
}


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    kustomize = lab.Cache.default().bin / "kustomize"
    groups = hierarchy(f"towline-test-kustomize-{os.getpid()}")
    group = groups.group("configuration", Limits(memory_bytes=1024 * MIB, processes=128))
    command = jailed("configuration", Parts("1.37", kustomize), group, JAIL_UID + 98, warm=False)
    started = await Worker.start(command, group, {})
    yield started
    await started.end()
    groups.close()


async def said(worker: Worker, **changed: bytes | None) -> list[str]:
    """The problems of the tree with some of its files changed; `deploy_patch` stands for `deploy/patch.yaml`."""
    files: dict[str, bytes] = dict(BASE)
    for name, content in changed.items():
        path = name.replace("_", "/", 1) + ".yaml"
        files.pop(path, None)
        if content is not None:
            files[path] = content
    entries = [snapshot.Entry(path, snapshot.FILE, content) for path, content in files.items()]
    request = {"tree": snapshot.tree_id(entries), "manifests": ["deploy"], "seconds": 20.0, "memory_bytes": 512 * MIB}
    answer: dict[str, Any] = await worker.ask(request, snapshot.pack(entries))
    assert answer.get("broken") is None
    assert "died" not in answer, answer
    return [f"{each['file']}:{each['line']}: {each['message']}" for each in answer["problems"]]


async def test_an_overlay_on_a_base_is_rendered_and_valid(worker: Worker) -> None:
    assert await said(worker) == []


async def test_a_mistake_in_the_base_is_told_in_the_base(worker: Worker) -> None:
    assert await said(worker, base_app=DEPLOYMENT.replace(b"replicas: 1", b"replicas: one")) == [
        "base/app.yaml:6: Deployment my-hello: spec.replicas: expected a whole number, found the text 'one'"
    ]


async def test_a_mistake_in_a_patch_is_told_in_the_patch(worker: Worker) -> None:
    patch = BASE["deploy/patch.yaml"].replace(b"paused: true", b"replicas: many")
    assert await said(worker, deploy_patch=patch) == [
        "deploy/patch.yaml:6: Deployment my-hello: spec.replicas: expected a whole number, found the text 'many'"
    ]


async def test_what_kustomize_itself_refuses_is_told_in_its_words(worker: Worker) -> None:
    (problem,) = await said(worker, deploy_kustomization=b"resources:\n- ../base\nnoSuchField: x\n")
    assert problem.startswith("deploy/kustomization.yaml:None: ")
    assert "noSuchField" in problem


async def test_files_outside_of_the_tree_are_not_loaded(worker: Worker) -> None:
    outside = b"resources:\n- ../base\nconfigMapGenerator:\n- name: stolen\n  files:\n  - %s\n"
    (problem,) = await said(worker, deploy_kustomization=outside % b"/etc/passwd")
    assert "passwd" in problem
    inside = await said(worker, deploy_kustomization=outside % b"patch.yaml")
    assert inside == []


async def test_a_remote_base_is_refused_with_its_line(worker: Worker) -> None:
    (problem,) = await said(worker, deploy_kustomization=b"resources:\n- ../base\n- https://example.com/a?ref=v1\n")
    assert problem.startswith("deploy/kustomization.yaml:3: `resources`: the remote source 'https://example.com/a?ref")
