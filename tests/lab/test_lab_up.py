"""`towline up` where there is nothing yet: it makes an instance with its own registry, and a pushed change lands."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from towline import flow
from towline.bus.open import open_bus
from towline.events import ChangeMerged
from towline.observe import Log
from towline_cli import instances, local_registry
from towline_cli.demo.workplace import Workplace
from towline_cli.lab import registry
from towline_cli.local import LocalInstance

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "towline_cli.main", *words]


def output_until(process: subprocess.Popen[str], words: str) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            break
    return said


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalInstance:
    monkeypatch.setenv("TOWLINE_HOME", str(tmp_path / "home"))
    return LocalInstance(f"up-{os.getpid()}")


@pytest.fixture
def running(instance: LocalInstance) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`towline up` and what it said once it was ready."""
    with subprocess.Popen(command("up", "--name", instance.name), stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, output_until(process, "Ctrl-C stops it")
        finally:
            process.kill()


def test_a_new_instance_takes_a_change_and_ends_in_order(
    instance: LocalInstance, running: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, said = running
    images = local_registry.address_of(instance)
    assert images is not None
    assert str(instance.repository) in said
    assert f"registry    {images}" in said
    assert "cluster     none" in said
    assert registry.is_ready(images)
    second = subprocess.run(command("up", "--name", instance.name), capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert f"instance '{instance.name}' runs already (process {process.pid})" in second.stderr

    work = Workplace(tmp_path / "clone", instance.repository)
    work.clone()
    head = work.commit("Say more", {"README.md": ("A new repository", "A repository")})
    work.push("refs/heads/for/main/more")
    landed = asyncio.run(merged(instance, head))

    assert work.main() == landed
    status = subprocess.run(command("status"), capture_output=True, text=True, check=False)
    assert "merged    app!more  “Say more”" in status.stdout
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not registry.is_ready(images), "its registry ends with it"
    assert not instance.ready.exists()


async def merged(instance: LocalInstance, head: str) -> str:
    bus = await open_bus(instances.bus_of(instance.config))
    try:
        found = await Log(bus, partitions=flow.PARTITIONS).wait_for(ChangeMerged, lambda event: event.head == head)
        return found.landed
    finally:
        await bus.close()


def test_a_killed_one_takes_its_registry_with_it_and_starts_again(
    instance: LocalInstance, running: tuple[subprocess.Popen[str], str]
) -> None:
    process, _ = running
    images = local_registry.address_of(instance)
    process.kill()
    process.wait()

    with subprocess.Popen(command("up", "--name", instance.name), stdout=subprocess.PIPE, text=True) as again:
        said = output_until(again, "Ctrl-C stops it")
        stopped = instance.stop()

    assert f"registry    {images}" in said
    assert stopped == [f"process towline ({again.pid})"]
    assert instance.exists(), "its repository stays"
