"""`towline status` and `towline trace` on a real log."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest

from towline.errors import BadInput
from towline.events import CandidateRejected, ChangeCreated, ChangeMerged, Event, Health, HealthChanged, Problem
from towline.events.change import PinnedImage
from towline_cli import instances, show

Write = Callable[..., Awaitable[None]]
REPO = "localhost/var/lib/towline/shop/git/app"
GOOD, BAD = "a" * 40, "b" * 40
IMAGE = f"127.0.0.1:5000/hello@sha256:{'1' * 64}"


def story() -> list[Event]:
    good = {"repo": REPO, "change": f"{REPO}!polite", "target": "main", "head": GOOD}
    bad = {"repo": REPO, "change": f"{REPO}!rude", "target": "main", "head": BAD}
    app = {"application": "local/default/shop", "repo": REPO, "revision": "c" * 40, "change": f"{REPO}!polite"}
    problem = Problem(message="expected an integer", file="deploy/app.yaml", line=7)
    return [
        ChangeCreated(**good, title="Greet politely", author="Ada"),
        ChangeCreated(**bad, title="Shout", author="Ada"),
        CandidateRejected(**bad, stage="pipeline", reason="its checks failed", problems=(problem,)),
        ChangeMerged(
            **good,
            candidate="d" * 40,
            landed="c" * 40,
            previous="e" * 40,
            source_tree="f" * 40,
            images=(PinnedImage(name="hello", reference=IMAGE),),
        ),
        HealthChanged(**app, health=Health.HEALTHY, previous=Health.PROGRESSING, reason="all pods are ready"),
    ]


async def test_status_says_where_everything_stands(
    shop: Path, log_of: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    await log_of(shop, *story())

    show.print_status(await show.read_of(shop))

    assert capsys.readouterr().out.splitlines() == [
        "merged    app!polite  “Greet politely”",
        "          landed as cccccccccccc",
        "rejected  app!rude  “Shout”",
        "          its checks failed",
        "          deploy/app.yaml:7: expected an integer",
        "healthy   local/default/shop  at cccccccccccc",
        "          all pods are ready",
    ]


async def test_status_for_programs_keeps_full_names(
    shop: Path, log_of: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    await log_of(shop, *story())

    show.print_status(await show.read_of(shop), json=True)

    said = orjson.loads(capsys.readouterr().out)
    assert [change["change"] for change in said["changes"]] == [f"{REPO}!polite", f"{REPO}!rude"]
    assert said["applications"][0]["health"] == "healthy"


@pytest.mark.parametrize("name", ["polite", "app!polite", f"{REPO}!polite", GOOD, GOOD[:7], "c" * 12])
async def test_a_trace_is_found_by_commit_change_or_topic(
    shop: Path, log_of: Write, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    await log_of(shop, *story())

    show.print_trace(await show.read_of(shop), name)

    assert capsys.readouterr().out.splitlines() == [
        f"app!polite  trace {'ab' * 16}",
        f"    0.000 s  git-watcher   change.created {'a' * 12} “Greet politely”",
        f"    3.000 s  git-watcher   change.merged {'c' * 12} 127.0.0.1:5000/hello@sha256:111111111111…",
        "    4.000 s  reconciler    health.changed progressing → healthy all pods are ready",
    ]


async def test_an_unknown_commit_gets_a_sentence(shop: Path, log_of: Write) -> None:
    await log_of(shop, *story())

    with pytest.raises(BadInput, match="no change has 'nosuch'; give 7 or more digits"):
        show.print_trace(await show.read_of(shop), "nosuch")


async def test_nothing_of_a_repository_reaches_the_terminal_as_a_command(
    shop: Path, log_of: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Output of a hostile build could retitle, clear or rewrite the terminal of whoever looked at its status."""
    bad = {"repo": REPO, "change": f"{REPO}!rude", "target": "main", "head": BAD}
    evil = "\x1b]0;owned\x07\x1b[2Jit failed\u202edessap\x9b1m"
    problem = Problem(message=f"{evil}\n{evil}", file="a\x1b[1m", line=1)
    reason = CandidateRejected(**bad, stage="build", reason=evil, problems=(problem,))
    await log_of(shop, ChangeCreated(**bad, title=evil, author="Ada"), reason)

    show.print_status(await show.read_of(shop))
    show.print_trace(await show.read_of(shop), "rude")

    said = capsys.readouterr().out
    assert said.count("it failed") == 7
    assert all(line.isprintable() for line in said.split("\n"))


async def test_status_says_what_a_running_instance_waits_for(
    shop: Path, log_of: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    await log_of(shop)

    class Waits(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"the Application shop is not in the cluster: forbidden\n"
            self.send_response(503)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody looks."""

    with HTTPServer(("127.0.0.1", 0), Waits) as server:
        answering = threading.Thread(target=server.handle_request)
        answering.start()
        (shop.parent / instances.READY).write_text(f"127.0.0.1:{server.server_address[1]}\n")
        waits = instances.waits_of(shop)
        answering.join()

    assert waits == ["the Application shop is not in the cluster: forbidden"]
    assert instances.waits_of(shop) == [], "an instance that was killed says nothing"
    show.print_status(await show.read_of(shop), waits)
    assert "not ready the Application shop is not in the cluster: forbidden\n" in capsys.readouterr().out


async def test_an_empty_log_says_how_to_push(shop: Path, log_of: Write, capsys: pytest.CaptureFixture[str]) -> None:
    await log_of(shop)

    show.print_status(await show.read_of(shop))

    assert "git push origin HEAD:refs/heads/for/main/<topic>" in capsys.readouterr().out


async def test_a_log_that_is_not_there_yet_is_said(shop: Path) -> None:
    with pytest.raises(BadInput, match="there is no log at sqlite:"):
        await show.read_of(shop)


def run_python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def run_towline(*words: str) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "towline_cli.main", *words)


async def test_the_command_line_prints_it_without_loading_models_or_services(shop: Path, log_of: Write) -> None:
    """What keeps `towline status` within its 300 ms."""
    await log_of(shop, *story())
    code = (
        "import sys; from towline_cli.main import app; app(['status', '--name', 'shop'], standalone_mode=False); "
        "heavy = {'pydantic', 'aiohttp', 'aiokafka', 'git', 'rich', 'kubernetes_asyncio', 'towline_cli.lab'}; "
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )

    done = run_python("-c", code)

    assert done.stderr == ""
    assert "merged    app!polite" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_a_mistake_is_one_sentence_and_exit_code_2(home: Path) -> None:
    done = run_towline("status", "--name", "nosuch")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "towline: there is no instance 'nosuch'; there are: none\n"


def test_a_bus_that_does_not_answer_is_one_sentence(shop: Path) -> None:
    shop.write_text("bus: kafka://127.0.0.1:1\n")

    done = run_towline("status")

    assert done.returncode == 2
    assert done.stderr.startswith("towline: Kafka at 127.0.0.1:1 does not answer")
    assert done.stderr.count("\n") == 1


def test_an_unknown_service_is_answered_with_those_there_are(shop: Path) -> None:
    done = run_towline("run", "notifierr")

    assert done.returncode == 2
    assert done.stderr.startswith("towline: there is no service 'notifierr'; expected one of: git-watcher,")


def test_help_lists_every_command() -> None:
    done = run_towline("--help")

    assert done.returncode == 0
    for command in ("up", "run", "status", "trace", "validate", "demo", "down"):
        assert f"\n  {command} " in done.stdout


def test_a_mistake_in_a_name_of_the_lab_is_a_sentence_too(home: Path) -> None:
    done = run_towline("demo", "--name", "../x")

    assert done.returncode == 2
    assert done.stderr.startswith("towline: instance: '../x' is no name")
