"""Manifests: YAML streams as Kubernetes reads them, with the line of every value.

Jailed children of ci-runner and reconciler read with it, so that what passes the one is understood by the other; it
needs PyYAML and nothing else. What must hold: a stream is read whole or refused with a line; a key that stands twice,
an alias bomb, a number that is cut and a document that is no object are problems, never guesses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_NODES = 400_000
"""Of one stream, aliases counted as often as they are used."""
MOST_DEPTH = 60

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1
_TAG = "tag:yaml.org,2002:"
_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq"})

Path = Sequence[str | int]


class BadDocument(Exception):
    """One problem; `line` counts from 1 in its file."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    value: Any
    node: Any

    @property
    def line(self) -> int:
        return _line(self.node)

    def line_of(self, path: Path) -> int | None:
        """Where the value at `path` stands, its key if it has one; None when the path leads nowhere here."""
        node, line = self.node, _line(self.node)
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = next(((key, value) for key, value in node.value if key.value == part), None)
                if found is None:
                    return None
                line, node = _line(found[0]), found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = _line(node)
            else:
                return None
        return line

    def nearest_line(self, path: Path) -> int:
        """Where the deepest part of `path` stands that is here."""
        for length in range(len(path), 0, -1):
            if (line := self.line_of(path[:length])) is not None:
                return line
        return self.line

    def at(self, path: Path) -> Any:
        """The value at `path`; raises LookupError or TypeError."""
        value = self.value
        for part in path:
            value = value[part]
        return value


def read(text: bytes) -> list[Document]:
    """All documents of a stream that are not empty. Raises BadDocument for the first that cannot be read."""
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadDocument("the file is not UTF-8 text", text.count(b"\n", 0, error.start) + 1) from None
    reader = _Reader(decoded)
    found = [Document(reader.value_of(node, 0), node) for node in _compose(decoded)]
    return [document for document in found if document.value is not None]


def objects(documents: list[Document]) -> Iterator[Document]:
    """Kubernetes objects, the items of `List` kinds one by one. Raises BadDocument for what is none."""
    for document in documents:
        value = document.value
        if isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and "items" in value:
            yield from objects(_items(document))
            continue
        _check_object(document)
        yield document


def _items(document: Document) -> list[Document]:
    items = document.value["items"] or []
    if not isinstance(items, list):
        raise BadDocument("the items of a List must be a list", document.line_of(["items"]))
    node = next(value for key, value in document.node.value if key.value == "items")
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node] * len(items)
    return [Document(item, below) for item, below in zip(items, nodes, strict=True)]


def _check_object(document: Document) -> None:
    value = document.value
    if not isinstance(value, dict):
        raise BadDocument("a document must be an object with apiVersion, kind and metadata.name", document.line)
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise BadDocument(f"the object has no {key}; expected it at the top of the document", document.line)
    meta = value.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        said = f"the {value['kind'][:80]} has no metadata.name, or one that is no text"
        if isinstance(meta, dict) and "generateName" in meta:
            said += "; metadata.generateName gives no lasting name"
        raise BadDocument(said, document.line)


def _compose(text: str) -> Iterator[Any]:
    try:
        loader = Loader(text)
        try:
            while loader.check_node():
                yield loader.get_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadDocument(f"this is not YAML: {error.problem}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise BadDocument(f"this is not YAML: {str(error)[:300]}") from None


class _Reader:
    """Values of one stream, whose text it is given."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._nodes = 0

    def value_of(self, node: Any, depth: int) -> Any:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise BadDocument(f"the file holds more than {MOST_NODES} values once aliases are expanded", _line(node))
        if depth > MOST_DEPTH:
            raise BadDocument(f"values are nested deeper than {MOST_DEPTH} levels", _line(node))
        if node.tag.removeprefix(_TAG) not in _TAGS:
            raise BadDocument(f"the tag {node.tag[:80]!r} is not taken here; write the value itself", _line(node))
        if isinstance(node, yaml.ScalarNode):
            return str(node.value) if self._is_text(node) else _plain(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(each, depth + 1) for each in node.value]
        return self._mapping(node, depth)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise BadDocument("a key must be plain text", _line(key_node))
            value = self.value_of(value_node, depth + 1)
            if key_node.tag == f"{_TAG}merge":
                for each in value if isinstance(value, list) else [value]:
                    if not isinstance(each, dict):
                        raise BadDocument("<< merges mappings only", _line(key_node))
                    merged = {**each, **merged}
            elif str(key_node.value) in result:
                raise BadDocument(f"the key {key_node.value[:80]!r} stands twice in one mapping", _line(key_node))
            else:
                result[str(key_node.value)] = value
        return {**merged, **result} if merged else result

    def _is_text(self, node: Any) -> bool:
        """Quoted, or tagged as in `!!str 5`. PyYAML's own tag does not tell: it also takes 1e3 for text."""
        if node.style in ("'", '"', "|", ">"):
            return True
        written = self._text[node.start_mark.index : node.end_mark.index]
        return bool(node.tag == f"{_TAG}str" and "!" in written.removesuffix(node.value))


def _plain(node: Any) -> Any:
    """A scalar without quotes."""
    text = str(node.value)
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INT.fullmatch(text):
        return _integer(text.replace("_", ""), node)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            raise BadDocument(f"the number {text[:40]!r} is too large", _line(node))
        return number
    return text


def _integer(text: str, node: Any) -> int | str:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    try:
        if digits[:2] in ("0b", "0x", "0o"):
            number = sign * int(digits, 0)
        else:
            number = sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
    except ValueError:  # 0x alone
        return text
    if not _SMALLEST <= number <= _LARGEST:
        raise BadDocument(f"the number {text[:40]!r} does not fit into 64 bits; quote it if it is text", _line(node))
    return number


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1
