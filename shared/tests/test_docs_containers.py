"""Dockerfiles and docker-compose.yml, as far as they can be checked without an engine."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from towline import flow
from towline.settings import load
from towline_cli.settings import TowlineSettings
from towline_reconciler.api.application import GROUP, KIND, VERSION, ApplicationSpec

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
PARTS = COMPOSE["services"]
AS_ROOT = {flow.BUILDER}
"""Services whose own process cannot do without root; each says why in its Dockerfile."""


@dataclass(frozen=True)
class Step:
    word: str
    rest: str


def steps(service: str) -> list[Step]:
    text = (ROOT / "services" / service / "Dockerfile").read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
    return [Step(line.split(maxsplit=1)[0], " ".join(line.split()[1:])) for line in lines]


def last_stage(service: str) -> list[Step]:
    every = steps(service)
    begins = max(index for index, step in enumerate(every) if step.word == "FROM")
    return every[begins:]


def copied(service: str) -> set[str]:
    """Paths that come from the repository."""
    copies = (step.rest.split() for step in steps(service) if step.word == "COPY" and "--from" not in step.rest)
    return {source for words in copies for source in words[:-1]}


def members() -> list[str]:
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
    found = [path.parent for pattern in workspace for path in ROOT.glob(f"{pattern}/pyproject.toml")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def test_every_service_of_the_map_has_a_dockerfile_and_stands_in_compose() -> None:
    for service in flow.SERVICES:
        assert steps(service)
        assert PARTS[service]["build"]["dockerfile"] == f"services/{service}/Dockerfile"


@pytest.mark.parametrize("service", flow.SERVICES)
def test_an_image_copies_every_member_of_the_workspace(service: str) -> None:
    wanted = {f"{member}/{part}" for member in members() for part in ("pyproject.toml", "src")}
    assert wanted | {"pyproject.toml", "uv.lock"} <= copied(service)


@pytest.mark.parametrize("service", flow.SERVICES)
def test_all_that_an_image_copies_exists(service: str) -> None:
    assert [path for path in copied(service) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("service", flow.SERVICES)
def test_a_manifest_is_copied_to_where_it_stands(service: str) -> None:
    for step in steps(service):
        if step.word == "COPY" and step.rest.split()[0].startswith(("shared/", "services/")):
            *sources, target = step.rest.split()
            for source in sources:
                expected = f"{Path(source).parent}/" if source.endswith(".toml") else source
                assert target in (expected, "./")


@pytest.mark.parametrize("service", flow.SERVICES)
def test_bases_are_pinned_by_a_version(service: str) -> None:
    bases = [step.rest.split()[0] for step in steps(service) if step.word == "FROM"]
    assert len(bases) > 1, "one stage builds, another runs"
    assert all(re.search(r":\d+\.\d+", base) for base in bases)


@pytest.mark.parametrize("service", flow.SERVICES)
def test_an_image_runs_its_service_without_root(service: str) -> None:
    last = {step.word: step.rest for step in last_stage(service)}
    assert last["ENTRYPOINT"] == f'["towline", "run", "{service}"]'
    assert (last["USER"] == "root") is (service in AS_ROOT)
    assert "/healthz" in last["HEALTHCHECK"]


@pytest.mark.parametrize("service", flow.SERVICES)
def test_an_image_is_built_with_the_uv_of_the_makefile(service: str) -> None:
    pinned = re.search(r"^UV_VERSION := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert pinned is not None
    assert any(f"uv=={pinned[1]}" in step.rest for step in steps(service) if step.word == "RUN")


@pytest.mark.parametrize(
    ("service", "packages"),
    [
        (flow.WATCHER, {"bubblewrap", "git", "openssh-client"}),
        (flow.RUNNER, {"bubblewrap"}),
        (flow.BUILDER, {"bubblewrap", "buildah", "uidmap"}),
        (flow.RECONCILER, {"bubblewrap", "git", "openssh-client"}),
    ],
)
def test_an_image_has_the_programs_that_its_service_calls(service: str, packages: set[str]) -> None:
    installed = next(step.rest for step in last_stage(service) if "apt-get install" in step.rest)
    assert packages <= set(installed.split())


def test_compose_names_only_images_with_a_version() -> None:
    for name, part in PARTS.items():
        assert re.search(r":v?\d+\.\d+", part["image"]), name


def test_whatever_is_waited_for_is_there_and_says_when_it_is_ready() -> None:
    for name, part in PARTS.items():
        for other, how in part.get("depends_on", {}).items():
            assert other in PARTS, f"{name} waits for {other}"
            if how["condition"] == "service_healthy":
                assert "test" in PARTS[other]["healthcheck"], f"{other} has no health check"


def test_every_volume_is_named_or_stands_in_the_repository() -> None:
    for name, part in PARTS.items():
        for volume in part.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).is_file(), f"{name} mounts {source}"
            else:
                assert source in COMPOSE["volumes"], f"{name} mounts {source}"


def test_only_the_cluster_is_privileged_and_ports_are_open_to_this_machine_alone() -> None:
    assert [name for name, part in PARTS.items() if part.get("privileged")] == ["k3s"]
    ports = [port for part in PARTS.values() for port in part.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_configuration_of_compose_is_valid_and_names_parts_of_compose() -> None:
    settings = load(TowlineSettings, ROOT / "deploy" / "compose" / "towline.yaml", {})
    assert settings.bus == "kafka://kafka:9092"
    assert settings.image_builder.registry is not None
    assert settings.image_builder.registry.address.split(":")[0] in PARTS
    assert all("@gitea:" in each.url for each in settings.git_watcher.repositories)
    assert {"kafka", "gitea"} <= set(PARTS)


def test_the_application_of_compose_follows_the_repository_that_is_watched() -> None:
    settings = load(TowlineSettings, ROOT / "deploy" / "compose" / "towline.yaml", {})
    application = yaml.safe_load((ROOT / "deploy" / "compose" / "application.yaml").read_text())
    assert (application["apiVersion"], application["kind"]) == (f"{GROUP}/{VERSION}", KIND)
    spec = ApplicationSpec.model_validate(application["spec"])
    assert spec.source.url in {each.url for each in settings.git_watcher.repositories}


def test_what_the_dockerfiles_copy_is_not_left_out_of_the_context() -> None:
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    kept = [line.removeprefix("!").replace("*", "[^/]*") for line in ignore if line.startswith("!")]
    for service in flow.SERVICES:
        for path in copied(service):
            assert any(re.match(rf"{pattern}(/|$)", path) for pattern in kept), path
