"""The image-builder from a candidate to its images in a real registry, with real builds."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from towline.events import ArtifactPackaged, ArtifactPublished, BuildStarted, Outcome, Purpose
from towline.project.model import ImageSpec
from towline_cli import lab
from towline_image_builder.settings import BaseSource, ImageBuilderSettings, PushRegistry
from towline_image_builder.testing import Workshop, workshop

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
DEMO = Path(lab.__file__).parents[1] / "demo" / "app"


@pytest.fixture
def settings(lab_instance: lab.Instance, tmp_path: Path) -> ImageBuilderSettings:
    """Images of every test go below a prefix of its own, so that no test finds what another one pushed."""
    prefix = f"t{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}/"
    return ImageBuilderSettings(registry=PushRegistry(address=lab_instance.registry, prefix=prefix))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image-builder-bases")


@pytest.fixture
async def shop(settings: ImageBuilderSettings, tmp_path: Path, bases: Path) -> AsyncIterator[Workshop]:
    async with workshop(settings, tmp_path, bases=bases) as running:
        yield running


@pytest.fixture
def demo(lab_instance: lab.Instance) -> dict[str, str]:
    """The demo's application, as it is pushed."""
    dockerfile = (DEMO / "Dockerfile").read_text().replace("@BASE@", lab_instance.base_image)
    return {"Dockerfile": dockerfile, "app.py": (DEMO / "app.py").read_text()}


async def in_registry(reference: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What the registry itself says: digest, manifest and configuration."""
    address, _, rest = reference.partition("/")
    name, _, wanted = rest.partition("@")
    accept = {"accept": "application/vnd.oci.image.manifest.v1+json"}
    async with httpx.AsyncClient(base_url=f"http://{address}/v2/{name}/") as client:
        answer = await client.get(f"manifests/{wanted}", headers=accept)
        answer.raise_for_status()
        manifest = answer.json()
        config = await client.get(f"blobs/{manifest['config']['digest']}")
    said: str = answer.headers["docker-content-digest"]
    assert said == f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
    return said, manifest, config.json()


async def test_the_demo_is_built_at_the_check_and_pushed_at_the_gate(shop: Workshop, demo: dict[str, str]) -> None:
    check = await shop.build(demo)
    gate = await shop.build(demo, Purpose.GATE)

    assert (check.outcome, gate.outcome) == (Outcome.SUCCESS, Outcome.SUCCESS), (check.problems, gate.problems)
    assert gate.images == check.images
    digest, _, config = await in_registry(gate.images[0].reference)
    assert digest == gate.images[0].digest
    assert config["config"]["User"] == "1000"
    assert [each.cached for each in shop.log.all(ArtifactPackaged)] == [False, True]
    assert [each.purpose for each in shop.log.all(ArtifactPublished)] == [Purpose.GATE]
    assert len(shop.log.all(BuildStarted)) == 2


async def test_a_check_pushes_nothing(shop: Workshop, demo: dict[str, str]) -> None:
    check = await shop.build(demo)

    with pytest.raises(httpx.HTTPStatusError, match="404"):
        await in_registry(check.images[0].reference)


async def test_two_builders_that_know_nothing_of_each_other_give_the_same_digest(
    settings: ImageBuilderSettings, demo: dict[str, str], tmp_path: Path
) -> None:
    digests = []
    for name in ("one", "two"):
        async with workshop(settings, tmp_path / name) as shop:
            end = await shop.build(demo)
            assert end.build_seconds > 0
            digests.append(end.images[0].digest)

    assert digests[0] == digests[1]


async def test_layers_of_the_base_are_the_bases_own(
    shop: Workshop, demo: dict[str, str], lab_instance: lab.Instance
) -> None:
    end = await shop.build(demo, Purpose.GATE)

    _, manifest, _ = await in_registry(end.images[0].reference)
    _, base, _ = await in_registry(lab_instance.base_image.replace(":stable", "@stable"))
    assert manifest["layers"][: len(base["layers"])] == base["layers"]


async def test_a_builder_without_memory_finds_the_image_in_the_registry(
    settings: ImageBuilderSettings, demo: dict[str, str], tmp_path: Path, bases: Path
) -> None:
    async with workshop(settings, tmp_path / "one", bases=bases) as shop:
        first = await shop.build(demo, Purpose.GATE)
    async with workshop(settings, tmp_path / "two", bases=bases) as shop:
        second = await shop.build(demo, Purpose.GATE)
        packaged = shop.log.all(ArtifactPackaged)

    assert second.images == first.images
    assert (second.build_seconds, second.push_seconds, packaged[0].cached) == (0.0, 0.0, True)


async def test_a_change_outside_of_the_context_builds_nothing_again(shop: Workshop, demo: dict[str, str]) -> None:
    files = {f"svc/{name}": text for name, text in demo.items()}
    image = (ImageSpec(name="app", context="svc", dockerfile="svc/Dockerfile"),)
    first = await shop.build(files, images=image)
    second = await shop.build({**files, "README.md": "changed"}, images=image)

    assert second.images == first.images
    assert (first.build_seconds > 0, second.build_seconds) == (True, 0.0)


async def test_an_image_that_is_gone_from_the_disk_is_built_again_for_the_gate(
    shop: Workshop, demo: dict[str, str]
) -> None:
    check = await shop.build(demo)
    shutil.rmtree(shop.folder / "images")
    gate = await shop.build(demo, Purpose.GATE)

    assert gate.images == check.images
    assert gate.build_seconds > 0
    assert (await in_registry(gate.images[0].reference))[0] == check.images[0].digest


async def test_stages_arguments_and_ignored_files_work_as_elsewhere(shop: Workshop, lab_instance: lab.Instance) -> None:
    files = {
        "Dockerfile": "ARG BASE\nFROM $BASE AS make\nARG WORD=none\nCOPY . /src\n"
        "RUN echo $WORD > /word && ls -A /src > /list\n"
        "FROM $BASE\nCOPY --from=make /word /list /\nRUN cat /word /list\n",
        ".dockerignore": "secret.txt\n",
        "secret.txt": "ignored",
        "app.py": "",
    }
    args = {"BASE": lab_instance.base_image, "WORD": "hello"}
    end = await shop.build(files, images=(ImageSpec(name="app", args=args),))

    assert end.outcome is Outcome.SUCCESS, end.problems
    assert "hello\nDockerfile\napp.py\n" in shop.output(end)


async def test_an_image_from_nothing_is_built(shop: Workshop) -> None:
    end = await shop.build({"Dockerfile": "FROM scratch\nCOPY a /a\n", "a": "x"}, Purpose.GATE)

    _, manifest, _ = await in_registry(end.images[0].reference)
    assert len(manifest["layers"]) == 1


async def test_a_failing_run_is_said_with_its_line_and_its_last_output(shop: Workshop, demo: dict[str, str]) -> None:
    dockerfile = demo["Dockerfile"].replace("RUN python3 -m compileall -q /srv", "RUN echo no such luck; exit 3")
    end = await shop.build({**demo, "Dockerfile": dockerfile})

    (problem,) = end.problems
    assert end.outcome is Outcome.FAILURE
    assert (problem.file, problem.line, problem.check) == ("Dockerfile", 3, "image app")
    assert problem.message == "RUN echo no such luck; exit 3: exit status 3; its last output:\nno such luck"
    assert "no such luck" in shop.output(end)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("{registry}/missing:1", "is not in the registry"),
        ("{registry}/debian:missing", "is not in the registry"),
        ("other.example/debian:12", "is not allowed; allowed are: {registry}, docker.io/library"),
        ("docker.io/team/app", "is not allowed"),
        ("Not-A-Reference", "is no image reference; expected"),
    ],
)
async def test_a_base_that_cannot_be_had_is_said_with_its_line(
    shop: Workshop, lab_instance: lab.Instance, base: str, said: str
) -> None:
    registry = lab_instance.registry
    end = await shop.build({"Dockerfile": f"# first\nFROM {base.format(registry=registry)}\n"})

    assert end.outcome is Outcome.FAILURE
    assert (end.problems[0].file, end.problems[0].line) == ("Dockerfile", 2)
    assert said.format(registry=registry) in end.problems[0].message


async def test_a_base_comes_from_the_mirror_under_its_own_name(
    settings: ImageBuilderSettings, lab_instance: lab.Instance, tmp_path: Path, bases: Path
) -> None:
    mirror = BaseSource.model_validate({"address": "hub.example", "mirror": {"address": lab_instance.registry}})
    async with workshop(settings.model_copy(update={"bases": (mirror,)}), tmp_path, bases=bases) as shop:
        end = await shop.build({"Dockerfile": "FROM hub.example/debian:stable\nRUN true\n"})

    assert end.outcome is Outcome.SUCCESS, end.problems


async def test_a_superseded_build_is_ended_and_makes_room(shop: Workshop, demo: dict[str, str]) -> None:
    endless = {**demo, "Dockerfile": demo["Dockerfile"].replace("RUN ", "RUN sleep 3600; ")}
    first = await shop.ask(endless)
    await shop.log.wait_for(BuildStarted)
    second = await shop.ask(demo)
    await shop.supersede(first)

    assert (await shop.finished(first)).outcome is Outcome.CANCEL
    assert (await shop.finished(second)).outcome is Outcome.SUCCESS


class Door:
    """A registry's address that answers only while it is open."""

    def __init__(self, inside: str) -> None:
        host, _, port = inside.partition(":")
        self._inside = (host, int(port))
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._inside)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        target.write(data)
        await target.drain()
    target.close()


async def test_a_registry_that_is_away_is_waited_for(
    settings: ImageBuilderSettings,
    lab_instance: lab.Instance,
    demo: dict[str, str],
    tmp_path: Path,
    bases: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = Door(lab_instance.registry)
    await door.open()
    await door.close()
    assert settings.registry is not None
    away = settings.registry.model_copy(update={"address": f"127.0.0.1:{door.port}"})
    sources = (BaseSource(address=lab_instance.registry),)
    changed = settings.model_copy(update={"registry": away, "bases": sources})
    with caplog.at_level(logging.WARNING):
        async with workshop(changed, tmp_path, bases=bases) as shop:
            gate = await shop.ask(demo, Purpose.GATE)
            async with asyncio.timeout(30):
                while not any("does not answer" in getattr(each, "error", "") for each in caplog.records):
                    await shop.log.read()
                    await asyncio.sleep(0.01)
            await door.open()
            end = await shop.finished(gate)
    await door.close()

    assert end.outcome is Outcome.SUCCESS, end.problems
    assert json.dumps(end.model_dump(mode="json")).count("does not answer") == 0
