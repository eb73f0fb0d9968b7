"""Dead letters as people read them: lines, ids to type, what to do next. Pure; the shell makes each line printable."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from towline.bus.port import Record
from towline.delivery.letters import Kind, Letter
from towline_cli.view.facts import short_name

SHORTEST_ID = 6
MOST_BYTES = 4096
"""Of a value that is no JSON, as text or hex; `--raw` writes all of it."""
Key = tuple[str, str]
"""Service and key."""


def short_ids(letters: Iterable[Letter]) -> dict[str, str]:
    """Id → its beginning, as long as it must be to be told from the others."""
    ids = sorted({letter.id for letter in letters})
    shown = {}
    for before, id, after in zip(["", *ids], ids, [*ids[1:], ""], strict=False):
        common = max(_in_common(id, other) for other in (before, after))
        shown[id] = id[: max(SHORTEST_ID, common + 1)]
    return shown


def _in_common(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def list_lines(
    letters: Sequence[Letter], parked: Mapping[Key, str], short: Mapping[str, str], now_ms: int
) -> list[str]:
    """Under each key its letters, in the order they were given up."""
    if not letters:
        return ["no dead letters"]
    lines = []
    for (service, key), own in by_key(letters).items():
        note = "  parked" if (service, key) in parked else ""
        lines.append(f"{service}  {key}{note}")
        lines += [f"  {short[letter.id]}  {_in_short(letter, now_ms)}" for letter in own]
    return lines


def hints(letters: Sequence[Letter], parked: Mapping[Key, str], short: Mapping[str, str]) -> list[str]:
    """The commands to go on with."""
    still = [letter for letter in letters if letter.open]
    if not still:
        return []
    lines = [f"{'towline dead show ' + short[still[0].id]:<44}  looks at one"]
    if stuck := [letter for letter in still if (letter.service, letter.key) in parked]:
        lines.append(f"{replay_command(stuck[0].key):<44}  takes up a parked key, once its cause is mended")
    return lines


def replay_command(key: str) -> str:
    return f"towline dead replay --key {shlex.quote(key)}"


def count_line(letters: Iterable[Letter]) -> str | None:
    """One line for `towline status`; None when all is well."""
    count = sum(letter.open for letter in letters)
    return f"{counted(count, 'dead letter')}: towline dead list" if count else None


def counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def by_key(letters: Iterable[Letter]) -> dict[Key, list[Letter]]:
    groups: dict[Key, list[Letter]] = {}
    for letter in letters:
        groups.setdefault((letter.service, letter.key), []).append(letter)
    return groups


def show_lines(letter: Letter, record: Record | None, parked: str | None, short: str) -> list[str]:
    """Everything about one letter; `record` is None where its bytes are gone."""
    times = "once" if letter.times == 1 else f"{letter.times} times, last {moment(letter.last_ms)}"
    lines = [
        f"dead letter {letter.id}",
        f"service   {letter.service} {letter.version}",
        f"key       {letter.key}",
        *([f"          is parked: {parked}"] if parked is not None else []),
        f"reason    {letter.reason}",
        f"from      {letter.origin}, written {moment(letter.written_ms)}",
        f"given up  {moment(letter.first_ms)}, {times}",
        f"event     {letter.type or 'none'}{'  ' + letter.event if letter.event else ''}",
        *([f"trace     {letter.trace}"] if letter.trace else []),
        *([_resolved(letter)] if not letter.open else []),
    ]
    if record is None:
        return [*lines, "its bytes are no longer in the log"]
    lines += ["headers", *(f"  {name}: {_shown(value)}" for name, value in record.headers.items())]
    lines += [f"value     {_size(record.value)}", *(f"  {line}" for line in payload_lines(record.value))]
    return lines + (_next_lines(letter, parked, short) if letter.open else [])


def payload_lines(value: bytes | None) -> list[str]:
    """JSON is laid out; of anything else the beginning is shown, as text or in hex."""
    if not value:
        return []
    try:
        return orjson.dumps(orjson.loads(value), option=orjson.OPT_INDENT_2).decode().split("\n")
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):  # the latter for what is nested too deeply to lay out
        pass
    start, rest = value[:MOST_BYTES], len(value) - MOST_BYTES
    more = [f"… {rest} bytes more; --raw writes all of them"] if rest > 0 else []
    try:
        return [*start.decode().split("\n"), *more]
    except UnicodeDecodeError:
        return [*(start[at : at + 32].hex(" ", 4) for at in range(0, len(start), 32)), *more]


def plain(letter: Letter, parked: Mapping[Key, str], record: Record | None = None) -> dict[str, Any]:
    """For programs; bytes that are no text are in base64 under a name that says so."""
    said = asdict(letter)
    said["parked"] = parked.get((letter.service, letter.key))
    if record is not None:
        said["headers"] = {}
        for name, value in record.headers.items():
            said["headers"].update(_field(name, value))
        said.update(_field("value", record.value))
    return said


def ago(now_ms: int, then_ms: int) -> str:
    seconds = max(0, now_ms - then_ms) // 1000
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def moment(ms: int) -> str:
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # a stranger's record may say anything
        return f"at {ms} ms"


def _in_short(letter: Letter, now_ms: int) -> str:
    words = [f"{ago(now_ms, letter.last_ms):<10}", short_name(letter.type) or "no event"]
    if not letter.open:
        return "  ".join([*words, _resolved(letter)])
    if letter.times > 1:
        words.append(f"failed {letter.times} times:")
    return "  ".join([*words, "waits: its key is parked" if letter.kind == Kind.PARKED else letter.reason])


def _resolved(letter: Letter) -> str:
    resolution = letter.resolution
    if resolution is None:
        return ""
    why = f": {resolution.reason}" if resolution.reason else ""
    return f"{resolution.how} by {resolution.by} at {moment(resolution.at_ms)}{why}"


def _next_lines(letter: Letter, parked: str | None, short: str) -> list[str]:
    if not letter.whole_key:
        replay = []
    elif parked is not None:
        replay = [f"  {replay_command(letter.key)}   this key's letters in their order; then the key is free"]
    else:
        replay = [f"  towline dead replay {short}"]
    return ["next", *replay, f"  towline dead drop {short} --reason '…'"]


def _size(value: bytes | None) -> str:
    return "none" if value is None else f"{len(value)} bytes"


def _shown(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return f"hex {value.hex()}"


def _field(name: str, value: bytes | None) -> dict[str, str | None]:
    import base64

    try:
        return {name: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{name} (base64)": base64.b64encode(value or b"").decode()}
