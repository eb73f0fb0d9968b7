"""The bounded way from a person's YAML to values: bytes of a hostile repository become text, lists and mappings.

What must hold, whatever the bytes are:

- 256 kB, 20 levels, 20,000 nodes and one document at most; no anchors, aliases, tags or merge keys, so nothing grows;
- every scalar is the text that was written. `no`, `1.10` and `0o17` stay what their author sees, and what a field
  wants them to be is the schema's business;
- keys are text and stand once; every value knows its line, so that a schema error can be shown where it is.

Nothing here recurses: a document is refused by its depth before anything could.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from towline.errors import BadInput, Location

MAX_BYTES = 256 * 1024
MAX_DEPTH = 20
MAX_NODES = 20_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(slots=True)
class Node:
    """One value of the file. `line` counts from 1; `lines` are those of a mapping's keys."""

    line: int
    value: str | list[Node] | dict[str, Node]
    plain: bool = False
    """A scalar without quotes."""
    lines: dict[str, int] = field(default_factory=dict)

    def data(self) -> Any:
        """Text, lists and dicts only."""
        if isinstance(self.value, str):
            return self.value
        if isinstance(self.value, list):
            return [item.data() for item in self.value]
        return {key: item.data() for key, item in self.value.items()}

    @property
    def kind(self) -> str:
        """In words, for a message."""
        if isinstance(self.value, str):
            return "nothing" if self.plain and self.value in {"", "~", "null"} else "text"
        return "a list" if isinstance(self.value, list) else "a mapping"


def read_tree(data: bytes, file: str) -> Node | None:
    """The file's one document; None for an empty file. Raises BadInput naming file, line and what was expected."""
    build = _Builder(file)
    try:
        for event in _events(_text(data, file), file):
            build.take(event)
    except yaml.YAMLError as error:
        raise _not_yaml(error, file) from None
    return build.root


def _text(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise BadInput(f"the file has {len(data)} bytes; at most {MAX_BYTES} are read", at=Location(file))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadInput("the file is not UTF-8 text; save it as UTF-8", at=Location(file, line)) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise BadInput("the file holds a NUL character; expected text", at=Location(file, line))
    return text


def _events(text: str, file: str) -> Iterator[Any]:
    documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                line = event.start_mark.line + 1 if event.start_mark else None
                raise BadInput(
                    "a second document starts here; expected one document in the file", at=Location(file, line)
                )
        yield event


def _not_yaml(error: yaml.YAMLError, file: str) -> BadInput:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    at = Location(file, mark.line + 1, mark.column + 1) if mark else Location(file)
    return BadInput(f"this is not YAML: {said}", at=at)


class _Builder:
    """Takes parser events; refuses what the module's docstring names."""

    def __init__(self, file: str) -> None:
        self.root: Node | None = None
        self._file = file
        self._open: list[Node] = []
        self._key: list[tuple[str, int] | None] = []
        self._count = 0

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._bad(line, "anchors and aliases (& and *) are not read here; write the value out")
        if getattr(event, "tag", None) is not None:
            raise self._bad(line, f"the tag {event.tag} is not read here; expected plain text, lists and mappings")
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(Node(line, event.value, plain=not event.style))
        elif isinstance(event, yaml.SequenceStartEvent):
            self._start(Node(line, []))
        elif isinstance(event, yaml.MappingStartEvent):
            self._start(Node(line, {}))
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            self._open.pop()
            self._key.pop()

    def _scalar(self, node: Node) -> None:
        if not self._wants_key():
            self._place(node)
            return
        assert isinstance(node.value, str)
        holder = self._open[-1]
        if node.plain and node.value == "<<":
            raise self._bad(node.line, "the merge key << is not read here; write the values out")
        if node.value in holder.lines:
            first = holder.lines[node.value]
            raise self._bad(node.line, f"the key `{node.value[:80]}` stands twice; the first is in line {first}")
        self._key[-1] = (node.value, node.line)

    def _start(self, node: Node) -> None:
        if self._wants_key():
            raise self._bad(node.line, "a key is text; found a list or a mapping as a key")
        if len(self._open) >= MAX_DEPTH:
            raise self._bad(node.line, f"values are nested deeper than {MAX_DEPTH} levels")
        self._place(node)
        self._open.append(node)
        self._key.append(None)

    def _wants_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._key[-1] is None

    def _place(self, node: Node) -> None:
        self._count += 1
        if self._count > MAX_NODES:
            raise self._bad(node.line, f"the file holds more than {MAX_NODES} values")
        if not self._open:
            self.root = node
            return
        holder, key = self._open[-1], self._key[-1]
        if isinstance(holder.value, list):
            holder.value.append(node)
        elif isinstance(holder.value, dict) and key is not None:
            holder.value[key[0]] = node
            holder.lines[key[0]] = key[1]
            self._key[-1] = None

    def _bad(self, line: int, message: str) -> BadInput:
        return BadInput(message, at=Location(self._file, line))
