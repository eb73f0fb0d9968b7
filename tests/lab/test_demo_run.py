"""`towline demo` as a user runs it: what it promises, how it refuses, and that it always cleans up."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from towline_cli import lab
from towline_cli.lab import network

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
PARTS = "registry, Kubernetes"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOWLINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def name(home: Path) -> Iterator[str]:
    """A name of this test's own; whatever a failed test leaves under it goes."""
    name = f"test-{os.getpid()}-demo"
    yield name
    run("down", "--name", name)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "towline_cli.main", *words]


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, env={**os.environ, **env})


def assert_nothing_is_left(name: str, home: Path) -> None:
    """No process that names the instance's folders, no interface, no mount, no file."""
    folder = lab.Instance(name).folder
    places = {str(folder), str(home / name)}
    left = [
        command
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit()
        if any(place in (command := command_line(entry)) for place in places)
    ]
    assert left == []
    links = subprocess.run(["ip", "-brief", "link"], capture_output=True, text=True, check=True).stdout
    assert network.bridge_name(folder) not in links
    mounts = Path("/proc/self/mountinfo").read_text()
    assert not [place for place in places if place in mounts]
    assert not (home / name).exists()


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_the_demo_shows_what_it_promises_and_leaves_nothing(name: str, home: Path) -> None:
    done = run("demo", "--name", name)

    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    # It says what it will change before it does.
    assert said.index("Starts a registry, a one-node Kubernetes and Towline") < said.index(PARTS)
    # A change goes through, and the pod runs the digest that Git names.
    assert re.search(r"✓ reconciler: the pod is Running with the digest Git names .* sha256:[0-9a-f]{12}", said)
    # The three bad changes and the direct push are refused with what and where; main does not move.
    assert re.search(r"rejected +app!failing-test .*\n.*: tests\.py:\d+: job unit failed with exit code 1\n", said)
    assert re.search(r"rejected +app!invalid-manifest .*\n.*: deploy/deployment\.yaml:\d+: .* found the text", said)
    assert re.search(r"rejected +app!unreadable-config .*\n.*: \.towline\.yaml:\d+: this is not YAML", said)
    assert "refused by the hook" in said
    assert "refs/heads/for/main/" in said
    assert "main is still " in said
    # Drift, timelines, notices.
    assert re.search(r"✓ the drift is repaired .* \d+ ms after the watch told", said)
    for topic in ("polite", "failing-test", "invalid-manifest", "unreadable-config"):
        assert f"app!{topic}  trace " in said
    assert "What was notified" in said
    assert done.stderr == ""
    assert_nothing_is_left(name, home)
    assert not lab.Instance(name).folder.exists()


def test_a_second_demo_of_a_name_is_refused_with_it(lab_instance: lab.Instance, home: Path) -> None:
    done = run("demo", "--name", lab_instance.name)

    assert done.returncode == 2
    assert f"a demo named '{lab_instance.name}' runs already" in done.stderr
    assert f"make down LAB={lab_instance.name}" in done.stderr
    assert lab_instance.is_running


def _hears_ctrl_c() -> None:
    """As in a terminal; what a shell starts in the background inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_ends_it_in_order(name: str, home: Path) -> None:
    with subprocess.Popen(
        command("demo", "--name", name),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hears_ctrl_c,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "✓ registry, Kubernetes" in line:
                break
        os.killpg(demo.pid, signal.SIGINT)
        said = demo.stdout.read()

    assert demo.returncode == 130
    assert "✗ interrupted while: " in said
    assert "everything is stopped and taken away" in said
    assert_nothing_is_left(name, home)


def test_a_failure_names_the_stage_the_log_and_the_command(name: str, home: Path) -> None:
    done = run("demo", "--name", name, TOWLINE_NOSUCH="1")

    assert done.returncode == 1
    assert "✗ failed while: towline up" in done.stdout
    assert "unknown setting nosuch" in done.stdout
    log = re.search(r"log to read: +(\S+)", done.stdout)
    assert log is not None
    assert "unknown setting nosuch" in Path(log[1]).read_text()
    assert f"command to try: make demo KEEP=1 LAB={name}" in done.stdout
    assert_nothing_is_left(name, home)
