"""`towline status` and `towline trace`: reads the log and prints what the pure views say of it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

import orjson

from towline.bus.port import Bus
from towline.delivery.letters import Letter
from towline.errors import BadInput
from towline_cli.instances import bus_of, config_of, open_log, waits_of
from towline_cli.letters import read_letters
from towline_cli.view import progress, timeline
from towline_cli.view.facts import Fact, read_facts
from towline_cli.view.letters import count_line
from towline_cli.view.names import repo_of, short_change, short_digests, short_repos
from towline_cli.view.printable import printable

PARTITIONS = 12
MOST_OUTPUT = 8
"""Lines of a failed job's output that a status shows; the log has them all."""


def status(config: Path | None, name: str | None, *, json: bool = False) -> None:
    file = config_of(config, name)
    facts, letters = asyncio.run(_facts_and_letters(file))
    print_status(facts, waits_of(file), letters, json=json)


def trace(commit: str, config: Path | None, name: str | None) -> None:
    print_trace(asyncio.run(read_of(config_of(config, name))), commit)


def print_status(
    facts: Sequence[Fact], waits: Sequence[str] = (), letters: Sequence[Letter] = (), *, json: bool = False
) -> None:
    """`waits` is what keeps the services from being ready; of the dead letters it is said how many are open."""
    changes, applications = progress.changes(facts), progress.applications(facts)
    if json:
        said = {
            "changes": [asdict(view) for view in changes.values()],
            "applications": [asdict(v) for v in applications.values()],
            "waits": list(waits),
            "dead_letters": sum(letter.open for letter in letters),
        }
        sys.stdout.write(orjson.dumps(said, default=_plain, option=orjson.OPT_INDENT_2).decode() + "\n")
        return
    for wait in waits:
        _print(f"not ready {wait}")
    if count := count_line(letters):
        _print(count)
    if not changes and not applications:
        _print("nothing has arrived yet; push a change with: git push origin HEAD:refs/heads/for/main/<topic>")
    short = short_repos(repo_of(change) for change in changes)
    for line in [line for view in changes.values() for line in change_lines(view, short)]:
        _print(line)
    for line in [line for view in applications.values() for line in application_lines(view)]:
        _print(line)


def print_trace(facts: Sequence[Fact], commit: str) -> None:
    """Raises BadInput when no change has that commit, name or topic."""
    found = timeline.changes_of(facts, commit)
    if not found:
        raise BadInput(
            f"no change has {commit!r}; give 7 or more digits of a commit, a change or a topic of `towline status`"
        )
    short = short_names(facts)
    for change in found:
        for line in trace_lines(facts, change, short):
            _print(line)


def short_names(facts: Sequence[Fact]) -> dict[str, str]:
    """Repository → what it is called where people read."""
    return short_repos(repo_of(fact.change) for fact in facts if fact.change is not None)


def change_lines(view: progress.ChangeView, short: Mapping[str, str]) -> list[str]:
    title = f"  “{view.title}”" if view.title else ""
    says = first_line(view.says)
    # A reason often quotes the first problem: what was said is not said again, what follows it is.
    details = [line for problem in view.problems for line in problem_lines(problem) if line not in says]
    return [
        f"{view.state:<9} {short_change(view.change, short)}{title}",
        *(f"          {line}" for line in (says, *details)),
    ]


def first_line(text: str) -> str:
    return text.partition("\n")[0]


def problem_lines(problem: str) -> list[str]:
    """A problem's sentence, and under it the end of the output that came with it."""
    sentence, *output = [line for line in problem.splitlines() if line.strip()]
    return [sentence, *(f"  | {line}" for line in output[-MOST_OUTPUT:])]


def application_lines(view: progress.ApplicationView) -> list[str]:
    lines = [f"{view.health:<9} {view.application}  at {view.revision[:12]}"]
    drifts = (f"{each} differs from Git and is not repaired yet" for each in view.drifts)
    details = (view.says, *(short_digests(image) for image in view.images), *view.problems, *drifts)
    return [*lines, *(f"          {said}" for said in details if said)]


def trace_lines(facts: Sequence[Fact], change: str, short: Mapping[str, str]) -> list[str]:
    trace_id = timeline.trace_id(facts, change)
    lines = [short_change(change, short) + (f"  trace {trace_id}" if trace_id else "")]
    for line in timeline.timeline(facts, change):
        lines.append(f"{line.after:>9.3f} s  {line.stage:<13} {line.text}")
        lines.extend(f"{'':<27}{first_line(detail)}" for detail in line.details)
    return lines


async def read_of(config: Path) -> list[Fact]:
    """The facts of the log that a settings file names."""
    async with opened(config) as bus:
        return await read_facts(bus, PARTITIONS)


async def _facts_and_letters(config: Path) -> tuple[list[Fact], Sequence[Letter]]:
    async with opened(config) as bus:
        return await read_facts(bus, PARTITIONS), (await read_letters(bus, PARTITIONS)).letters


@asynccontextmanager
async def opened(config: Path) -> AsyncIterator[Bus]:
    """The log that a settings file names; raises BadInput when there is none yet."""
    from towline.bus.open import sqlite_file

    url = bus_of(config)
    if url.startswith("sqlite:") and not sqlite_file(url)[0].exists():
        raise BadInput(f"there is no log at {url}; it appears with the first `towline up` or `towline run`")
    # What the client has to say while it fails is in the error that it raises.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    bus = await open_log(config)
    try:
        yield bus
    finally:
        await bus.close()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _print(line: str) -> None:
    sys.stdout.write(printable(line) + "\n")
