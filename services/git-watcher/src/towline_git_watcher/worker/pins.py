"""Pinned fields: whose rules count, and how one field of a file is written while every other byte stays.

Edits are made on the text, at the places that the parser names, never by writing a whole document anew: comments,
order, quotes and line ends of the author are none of Towline's business. What must hold:

- after an edit the file says exactly what it said before, but for the pinned field (read again, and compared);
- writing twice is writing once, and writing a constant over any value gives the same bytes.

The target's rules count. Where it is silent (no file, or an image it does not know) the change's own do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from towline.errors import BadInput
from towline.events import Problem
from towline.project.model import KustomizePin, Pin, Project, YamlPin
from towline.project.read import FILE
from towline.project.tree import read_tree
from towline_git_watcher.worker.yaml_text import Cannot, Text


@dataclass(frozen=True, slots=True)
class Value:
    repository: str
    digest: str


Values = Value | Mapping[str, Value]
"""One for all images, or by an image's name."""
CONSTANT = Value("pinned.invalid/image", "sha256:" + "0" * 64)


@dataclass(frozen=True, slots=True)
class Rule:
    image: str
    pin: Pin


class BadPin(Exception):
    """The field is not there, or not one that can be written."""

    def __init__(self, message: str, file: str, line: int | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(message=message, file=file, line=line, check="configuration")


def rules(target: Project | None, change: Project) -> list[Rule]:
    decided = target.images if target is not None else ()
    known = {image.name for image in decided}
    added = [image for image in change.images if image.name not in known]
    found: dict[Pin, Rule] = {}
    for image in (*decided, *added):
        for pin in image.pins:
            found.setdefault(pin, Rule(image.name, pin))  # the target's, when both name a field
    return list(found.values())


def file_of(pin: Pin) -> str:
    return pin.kustomize if isinstance(pin, KustomizePin) else pin.yaml


def write(content: bytes | None, pin: Pin, value: Value) -> bytes:
    """The file with its field written. Raises BadPin."""
    file = file_of(pin)
    if content is None:
        raise BadPin("the file with the pinned field does not exist", file)
    if file == FILE:
        raise BadPin("a pinned field cannot stand in Towline's own file", file)
    before = _data(content, file)
    text = Text(content.decode("utf-8"))
    try:
        if isinstance(pin, KustomizePin):
            wanted = _kustomize(text, pin, value, before)
        else:
            wanted = _field(text, pin, value, before)
        after = text.edited().encode()
    except Cannot as error:
        raise BadPin(str(error), file, error.line) from None
    if _data(after, file) != wanted:
        raise BadPin("the field cannot be written without changing more; write it in block style, one key a line", file)
    return after


def _data(content: bytes, file: str) -> Any:
    try:
        root = read_tree(content, file)
    except BadInput as error:
        line = error.at.line if error.at else None
        raise BadPin(str(error).removeprefix(f"{error.at}: "), file, line) from None
    return root.data() if root else None


def _kustomize(text: Text, pin: KustomizePin, value: Value, data: Any) -> Any:
    images = text.key(text.root, "images")
    entries = images.value if isinstance(images, yaml.SequenceNode) else []
    for number, entry in enumerate(entries):
        name = text.key(entry, "name") if isinstance(entry, yaml.MappingNode) else None
        if isinstance(name, yaml.ScalarNode) and name.value == pin.image:
            _kustomize_entry(text, entry, value)
            item = {key: each for key, each in data["images"][number].items() if key != "newTag"}
            item |= {"newName": value.repository, "digest": value.digest}
            changed = [item if at == number else each for at, each in enumerate(data["images"])]
            return {**data, "images": changed}
    line = images.start_mark.line + 1 if images is not None else None
    raise Cannot(f"there is no entry with name: {pin.image} under images; add one", line)


def _kustomize_entry(text: Text, entry: yaml.MappingNode, value: Value) -> None:
    """A tag gives its place to the digest, so that a comment beside it keeps its line."""
    has_digest, has_tag = text.key(entry, "digest") is not None, text.key(entry, "newTag") is not None
    if text.key(entry, "newName") is not None:
        text.set(entry, "newName", value.repository)
    else:
        text.insert_after(entry, "name", "newName", value.repository)
    if has_digest:
        text.set(entry, "digest", value.digest)
        if has_tag:
            text.remove(entry, "newTag")
    elif has_tag:
        text.rename(entry, "newTag", "digest")
        text.set(entry, "newTag", value.digest)
    else:
        text.insert_after(entry, "name", "digest", value.digest)


def _field(text: Text, pin: YamlPin, value: Value, data: Any) -> Any:
    parts = pin.path.split(".")
    node: yaml.Node | None = text.root
    for number, part in enumerate(parts):
        below: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            below = text.key(node, part)
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            below = node.value[int(part)]
        if below is None:
            line = node.start_mark.line + 1 if node is not None else None
            raise Cannot(f"there is no field {'.'.join(parts[: number + 1])}; expected the one to pin", line)
        node = below
    reference = f"{value.repository}@{value.digest}"
    assert node is not None
    text.replace(node, reference)
    return _with(data, parts, reference)


def _with(data: Any, parts: list[str], value: str) -> Any:
    if not parts:
        return value
    if isinstance(data, list):
        at = int(parts[0])
        return [_with(each, parts[1:], value) if number == at else each for number, each in enumerate(data)]
    return {key: _with(each, parts[1:], value) if key == parts[0] else each for key, each in data.items()}
