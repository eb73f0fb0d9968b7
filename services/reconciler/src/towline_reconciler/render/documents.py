"""YAML as kubectl reads it, strictly and within bounds. Runs in the jail; needs PyYAML and nothing of the service.

What must hold: a stream is read whole or not at all; a key that stands twice, an alias bomb, a document that is no
object and a name that is missing are problems with file and line, never guesses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MOST_NODES = 400_000
"""Of one file, aliases counted as often as they are used: an alias bomb ends here."""
MOST_DEPTH = 60

_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0o?[0-7_]*|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1
_PREFIX = "tag:yaml.org,2002:"
_TAGS = frozenset({"str", "int", "float", "bool", "null", "timestamp", "value", "merge", "map", "seq"})
_RESOLVER: Any = yaml.resolver.Resolver()
"""Says which tag PyYAML gives to plain text by itself."""


class BadDocument(Exception):
    """One problem; `line` counts from 1 in its file."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Document:
    value: Any
    line: int


def read(text: bytes) -> list[Document]:
    """All documents of a stream that are not empty. Raises BadDocument for the first that cannot be read."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise BadDocument("the file is not UTF-8 text", line) from None
    counter = _Counter()
    return [
        Document(value, node.start_mark.line + 1)
        for node in _compose(decoded)
        if (value := _construct(node, counter, 0)) is not None
    ]


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


class _Counter:
    def __init__(self) -> None:
        self.nodes = 0

    def one_more(self, node: Any, depth: int) -> None:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise BadDocument(f"the file holds more than {MOST_NODES} values once aliases are expanded", _line(node))
        if depth > MOST_DEPTH:
            raise BadDocument(f"values are nested deeper than {MOST_DEPTH} levels", _line(node))


def _construct(node: Any, counter: _Counter, depth: int) -> Any:
    counter.one_more(node, depth)
    if node.tag.removeprefix(_PREFIX) not in _TAGS:
        raise BadDocument(f"the tag {node.tag[:80]!r} is not taken here; write the value itself", _line(node))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(each, counter, depth + 1) for each in node.value]
    return _mapping(node, counter, depth)


def _mapping(node: Any, counter: _Counter, depth: int) -> dict[str, Any]:
    result: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise BadDocument("a key must be plain text", _line(key_node))
        value = _construct(value_node, counter, depth + 1)
        if key_node.tag == f"{_PREFIX}merge":
            for each in value if isinstance(value, list) else [value]:
                if not isinstance(each, dict):
                    raise BadDocument("<< merges mappings only", _line(key_node))
                merged = {**each, **merged}
            continue
        key = str(key_node.value)
        if key in result:
            raise BadDocument(f"the key {key[:80]!r} stands twice in one mapping", _line(key_node))
        result[key] = value
    return {**merged, **result} if merged else result


def _scalar(node: Any) -> Any:
    text = str(node.value)
    if node.style in ("'", '"', "|", ">"):
        return text
    if node.tag == f"{_PREFIX}str" and _RESOLVER.resolve(yaml.ScalarNode, text, (True, False)) != node.tag:
        return text  # somebody wrote !!str
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.fullmatch(text):
        return _integer(text.replace("_", ""), node)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isfinite(number):
            return number
        raise BadDocument(f"the number {text[:40]!r} is too large", _line(node))
    return text


def _integer(text: str, node: Any) -> Any:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    try:
        if digits[:2] in ("0b", "0x", "0o"):
            number = sign * int(digits, 0)
        else:
            number = sign * int(digits, 8 if len(digits) > 1 and digits[0] == "0" else 10)
    except ValueError:
        return text
    if not _SMALLEST <= number <= _LARGEST:
        raise BadDocument(f"the number {text[:40]!r} does not fit into 64 bits; quote it if it is text", _line(node))
    return number


def _line(node: Any) -> int:
    return int(node.start_mark.line) + 1


def objects(documents: list[Document]) -> Iterator[Document]:
    """Kubernetes objects, `List` kinds taken apart. Raises BadDocument for what is none."""
    for document in documents:
        value = document.value
        if isinstance(value, dict) and str(value.get("kind", "")).endswith("List") and "items" in value:
            items = value["items"] or []
            if not isinstance(items, list):
                raise BadDocument("the items of a List must be a list", document.line)
            yield from objects([Document(item, document.line) for item in items])
            continue
        _check(value, document.line)
        yield document


def _check(value: Any, line: int) -> None:
    if not isinstance(value, dict):
        raise BadDocument("a document must be an object with apiVersion, kind and metadata.name", line)
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise BadDocument(f"the object has no {key}", line)
    meta = value.get("metadata")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str) or not meta["name"]:
        said = (
            "metadata.generateName gives no lasting name; " if isinstance(meta, dict) and "generateName" in meta else ""
        )
        raise BadDocument(f"{value['kind']}: {said}the object needs metadata.name", line)
    for key in ("labels", "annotations"):
        pairs = meta.get(key) or {}
        if not isinstance(pairs, dict) or not all(isinstance(each, str) for each in pairs.values()):
            raise BadDocument(f"{value['kind']} {meta['name']}: metadata.{key} maps text to text; quote numbers", line)
