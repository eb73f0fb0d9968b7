"""Owns the two programs built from Go modules: a whole Kubernetes in one binary, and Kustomize alone.

The rule that must hold: a binary is reused only when it was built from exactly these sources, sums and flags.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab.cache import is_current, key_of
from towline_cli.lab.command import run

if TYPE_CHECKING:
    from towline_cli.lab.cache import Cache
    from towline_cli.lab.progress import Step

PART = "kubernetes"
SOURCE = Path(__file__).parent / "parts" / "kube"
SOURCES = ("go.mod", "go.sum", "main.go", "kustomize/main.go")
LINKED = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")


def kubernetes_version(go_mod: str) -> str:
    """`1.36.3` out of go.mod's requirement."""
    found = re.search(r"^\s*k8s\.io/kubernetes v(\S+)", go_mod, re.MULTILINE)
    assert found, "go.mod names k8s.io/kubernetes"
    return found.group(1)


def linker_flags(version: str) -> str:
    """Strips symbols and says the version: a server without one calls itself v0.0.0 and clients refuse it."""
    major, minor = version.split(".")[:2]
    package = "k8s.io/component-base/version"
    named = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    return " ".join(["-s -w", *(f"-X {package}.{name}={value}" for name, value in named.items())])


def _flags() -> list[str]:
    version = kubernetes_version((SOURCE / "go.mod").read_text(encoding="utf-8"))
    return ["-trimpath", "-buildvcs=false", "-ldflags", linker_flags(version)]


def _key() -> str:
    return key_of(*(SOURCE / name for name in SOURCES), *_flags())


def is_there(cache: Cache) -> bool:
    """Whether both programs are built from the sources as they are now."""
    binaries = (cache.bin / "kube", cache.bin / "kustomize", *(cache.bin / name for name in LINKED))
    return is_current(cache.bin / "kube.key", _key()) and all(binary.exists() for binary in binaries)


def install(cache: Cache, step: Step) -> None:
    """Builds both programs, `step` counting compiled packages, and links the parts of Kubernetes to theirs."""
    if is_there(cache):
        return
    staged = cache.folder / "go" / "out"
    # A build from copied sources: the compiler may write into its folder, and the workspace may be read-only.
    source = cache.folder / "go" / "source"
    for folder in (staged, source):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(SOURCE, source)
    staged.mkdir(parents=True)
    env = {
        "GOMODCACHE": str(cache.go_modules),
        "GOCACHE": str(cache.go_build),
        "GOFLAGS": "-modcacherw",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    packages = ("./", "./kustomize")
    listed = run(PART, ["go", "list", "-deps", *packages], cwd=source, env=env, log=cache.logs / "go-list.log")
    step.total(sum(1 for line in listed.splitlines() if not line.startswith("go: ")))

    def count(line: str) -> None:
        if not line.startswith(("go: ", "#")):
            step.advance()

    for package, name in (("./", "kube"), ("./kustomize", "kustomize")):
        build: list[str | Path] = ["go", "build", "-v", *_flags(), "-o", staged / name, package]
        run(PART, build, cwd=source, env=env, log=cache.logs / f"go-build-{name}.log", on_line=count)
    cache.bin.mkdir(parents=True, exist_ok=True)
    for name in ("kube", "kustomize"):
        (staged / name).replace(cache.bin / name)
    for name in LINKED:
        link = cache.bin / name
        link.unlink(missing_ok=True)
        link.symlink_to("kube")
    (cache.bin / "kube.key").write_text(_key(), encoding="ascii")
