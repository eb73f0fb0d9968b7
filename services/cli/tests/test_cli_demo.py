"""The demo's pieces: what it shows on a terminal and without one, the clone, the receiver, the refusals."""

from __future__ import annotations

import io
import json
import subprocess
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from towline.errors import BadInput
from towline_cli import lab
from towline_cli.demo.notified import notified_lines
from towline_cli.demo.receiver import Receiver
from towline_cli.demo.run import Stage, demo
from towline_cli.demo.screen import Screen
from towline_cli.demo.workplace import Refused, Workplace, write_application
from towline_cli.lab import network, processes, record
from towline_cli.local import LocalInstance, Surroundings


def screen(*, terminal: bool) -> tuple[Screen, io.StringIO]:
    said = io.StringIO()
    return Screen(Console(file=said, force_terminal=terminal, width=100, highlight=False)), said


def test_without_a_terminal_a_stage_is_one_plain_line() -> None:
    shown, said = screen(terminal=False)

    with shown.doing("the pod runs") as note:
        note.text = "digest 1234"

    (line,) = said.getvalue().splitlines()
    assert line.startswith("  ✓ the pod runs ")
    assert line.endswith(" s  digest 1234")
    assert "\x1b" not in line


def test_on_a_terminal_a_stage_spins_and_leaves_one_line() -> None:
    shown, said = screen(terminal=True)

    with shown.doing("the pod runs"):
        pass

    assert "\x1b[" in said.getvalue()
    assert said.getvalue().count("✓") == 1


def test_a_stage_that_fails_is_remembered_and_gets_no_mark() -> None:
    shown, said = screen(terminal=False)

    with pytest.raises(ValueError, match="no"), shown.doing("the pod runs"):
        raise ValueError("no")

    assert shown.stage == "the pod runs"
    assert "✓" not in said.getvalue()


def test_the_receiver_shows_what_was_notified() -> None:
    event = {"data": {"customData": {"title": "app!polite was merged", "severity": "info", "text": "more"}}}
    with Receiver() as receiver:
        request = urllib.request.Request(
            receiver.url, data=json.dumps(event).encode(), headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 204

    assert notified_lines(receiver.received) == ["info     app!polite was merged"]
    assert notified_lines([]) == ["nothing"]


def test_the_application_names_registry_and_base(tmp_path: Path) -> None:
    write_application(tmp_path / "app", "127.0.0.1:5000", "127.0.0.1:5000/debian:stable")

    assert (tmp_path / "app/Dockerfile").read_text().startswith("FROM 127.0.0.1:5000/debian:stable\n")
    assert "newName: 127.0.0.1:5000/hello" in (tmp_path / "app/deploy/kustomization.yaml").read_text()
    leftovers = subprocess.run(["grep", "-rl", "@", tmp_path], capture_output=True, text=True, check=False)
    assert leftovers.stdout == ""
    tests = ["python3", "-m", "unittest", "tests"]
    subprocess.run(tests, cwd=tmp_path / "app", capture_output=True, check=True)


def test_a_developer_commits_and_is_told_what_the_server_says(home: Path, tmp_path: Path) -> None:
    instance = LocalInstance("work")
    instance.create(Surroundings(), lambda tree: write_application(tree, "127.0.0.1:5000", "base"))
    work = Workplace(tmp_path / "clone", instance.repository)
    work.clone()

    head = work.commit("Greet politely", {"app.py": ("hello, ", "good day, ")})
    work.push("refs/heads/for/main/polite")

    assert work.git("rev-parse", "refs/heads/for/main/polite", cwd=instance.repository) == head
    with pytest.raises(ValueError, match="has no"):
        work.commit("Nothing", {"app.py": ("no such text", "")})
    hook = instance.repository / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho 'push to refs/heads/for/main/<topic> instead' >&2\nexit 1\n")
    hook.chmod(0o755)
    work.commit("Greet", {"app.py": ("hello, ", "hi, ")})
    with pytest.raises(Refused, match="push to refs/heads/for/main/<topic> instead"):
        work.push("refs/heads/main")


def test_a_demo_does_not_take_the_name_of_somebodys_instance(home: Path) -> None:
    LocalInstance("mine").create(Surroundings())

    with pytest.raises(BadInput, match="'mine' is an instance that `towline up` made"):
        Stage(screen(terminal=False)[0], "mine", "sqlite").refuse_a_second()


def test_what_a_demo_started_goes_also_when_it_ends_by_a_bug(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It left a cluster running that nobody was told of."""
    monkeypatch.setenv("TOWLINE_CACHE", str(tmp_path / "cache"))
    LocalInstance("demo").create(Surroundings(), disposable=True)

    def play(stage: Stage) -> None:
        no_subnet = network.SUBNETS  # of no real instance: its interfaces would go
        mine = record.Record("demo", processes.boot_id(), "now", no_subnet, "tl-x", {}, record.this_process())
        record.write(stage._lab.folder, mine)
        raise KeyError("a bug")

    monkeypatch.setattr(Stage, "play", play)

    with pytest.raises(KeyError):
        demo("demo", "sqlite", keep=False)

    assert not LocalInstance("demo").exists()
    assert record.read(lab.Instance("demo").folder) is None


def test_an_unknown_bus_or_name_is_refused_before_anything_is_done(home: Path) -> None:
    with pytest.raises(BadInput, match="'redis' is no bus of the demo; expected sqlite or kafka"):
        demo("demo", "redis", keep=False)
    with pytest.raises(lab.LabError, match="is no name"):
        demo("../x", "sqlite", keep=False)


def test_a_demo_that_fails_leaves_the_instance_of_a_quicker_one_alone(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both passed the first look; the one that came second must not take the other's parts away."""
    monkeypatch.setenv("TOWLINE_CACHE", str(tmp_path / "cache"))
    stage = Stage(screen(terminal=False)[0], "demo", "sqlite")
    other = subprocess.Popen(["sleep", "600"])
    try:
        start = processes.start_of(other.pid)
        assert start is not None
        theirs = processes.Started("owner", other.pid, start)
        instance = lab.Instance("demo")
        written = record.Record("demo", processes.boot_id(), "now", 3, "tl-x", {}, theirs, (theirs,))
        record.write(instance.folder, written)
        LocalInstance("demo").create(Surroundings(), disposable=True)

        with pytest.raises(BadInput, match="a demo named 'demo' runs already"):
            stage.refuse_a_second()
        monkeypatch.setattr(Stage, "refuse_a_second", lambda _: None)
        monkeypatch.setattr(Stage, "_install", lambda _: None)
        with pytest.raises(lab.AlreadyRunning, match="make down LAB=demo"):
            demo("demo", "sqlite", keep=False)
        assert stage.interrupted() == 130

        assert other.poll() is None
        assert LocalInstance("demo").exists()
        assert record.read(instance.folder) == written
    finally:
        other.kill()
        other.wait()
