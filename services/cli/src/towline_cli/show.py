"""`towline status` and `towline trace`: reads the log and prints what the pure views say of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import orjson

from towline.errors import BadInput
from towline_cli.instances import bus_of, config_of
from towline_cli.view import progress, timeline
from towline_cli.view.facts import Fact, read_facts

PARTITIONS = 12


def status(config: Path | None, name: str | None, *, json: bool = False) -> None:
    facts = _facts(config, name)
    changes, applications = progress.changes(facts), progress.applications(facts)
    if json:
        said = {
            "changes": [asdict(view) for view in changes.values()],
            "applications": [asdict(v) for v in applications.values()],
        }
        _print(orjson.dumps(said, default=_plain, option=orjson.OPT_INDENT_2).decode())
        return
    if not changes and not applications:
        _print("nothing has arrived yet; push a change with: git push origin HEAD:refs/heads/for/main/<topic>")
    for line in [line for view in changes.values() for line in change_lines(view)]:
        _print(line)
    for line in [line for view in applications.values() for line in application_lines(view)]:
        _print(line)


def trace(commit: str, config: Path | None, name: str | None) -> None:
    facts = _facts(config, name)
    found = timeline.changes_of(facts, commit)
    if not found:
        raise BadInput(
            f"no change has {commit!r}; give 7 or more digits of a commit, a change or a topic of `towline status`"
        )
    for change in found:
        for line in trace_lines(facts, change):
            _print(line)


def change_lines(view: progress.ChangeView) -> list[str]:
    title = f"  “{view.title}”" if view.title else ""
    return [
        f"{view.state:<9} {view.change}{title}",
        f"          {view.says}",
        *(f"          {p}" for p in view.problems),
    ]


def application_lines(view: progress.ApplicationView) -> list[str]:
    lines = [f"{view.health:<9} {view.application}  at {view.revision[:12]}"]
    return [*lines, *(f"          {said}" for said in (view.says, *view.images, *view.problems) if said)]


def trace_lines(facts: Sequence[Fact], change: str) -> list[str]:
    trace_id = timeline.trace_id(facts, change)
    lines = [f"{change}" + (f"  trace {trace_id}" if trace_id else "")]
    for line in timeline.timeline(facts, change):
        lines.append(f"{line.after:>9.3f} s  {line.stage:<13} {line.text}")
        lines.extend(f"{'':<27}{detail}" for detail in line.details)
    return lines


def _facts(config: Path | None, name: str | None) -> list[Fact]:
    return asyncio.run(read(bus_of(config_of(config, name))))


async def read(url: str) -> list[Fact]:
    """The facts of a log that exists; raises BadInput when there is none yet."""
    from towline.bus.open import open_bus

    path = (
        Path("/" + url.removeprefix("sqlite:////"))
        if url.startswith("sqlite:////")
        else Path(url.removeprefix("sqlite:///"))
    )
    if url.startswith("sqlite:") and not path.exists():
        raise BadInput(f"there is no log at {url}; it appears with the first `towline up` or `towline run`")
    bus = await open_bus(url, partitions=PARTITIONS)
    try:
        return await read_facts(bus, PARTITIONS)
    finally:
        await bus.close()


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
