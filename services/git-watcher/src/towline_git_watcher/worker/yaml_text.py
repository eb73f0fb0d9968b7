"""Edits on the text of a YAML document, at the marks that its parser gives. Nothing outside of an edit moves.

Callers bound the document first (`towline.project.tree`: no anchors, tags, second documents) and compare afterwards
what it says; so an unusual form that is edited wrongly is refused, never written.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BOM = "\ufeff"


class Cannot(Exception):
    """The document does not have what is to be edited, or has it in a form that cannot be edited safely."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class Text:
    def __init__(self, text: str) -> None:
        self._bom = _BOM if text.startswith(_BOM) else ""
        self._text = text.removeprefix(_BOM)
        self._end_of_line = "\r\n" if "\r\n" in self._text else "\n"
        self._edits: list[tuple[int, int, str]] = []
        self.root: yaml.Node | None = yaml.compose(self._text, Loader=_LOADER)

    def edited(self) -> str:
        out, at = [self._bom], 0
        for start, end, new in sorted(self._edits, key=lambda edit: (edit[0], edit[1])):
            if start < at:
                raise Cannot("the fields to write overlap")
            out += [self._text[at:start], new]
            at = end
        return "".join([*out, self._text[at:]])

    # -- looking --------------------------------------------------------------------------------------------------

    def key(self, node: yaml.Node | None, name: str) -> yaml.Node | None:
        return next((value for key, value in _pairs(node) if key.value == name), None)

    def _pair(self, node: yaml.MappingNode, name: str) -> tuple[int, yaml.Node, yaml.Node]:
        for number, (key, value) in enumerate(_pairs(node)):
            if key.value == name:
                return number, key, value
        raise Cannot(f"there is no key {name}", node.start_mark.line + 1)

    # -- editing --------------------------------------------------------------------------------------------------

    def replace(self, node: yaml.Node, value: str) -> None:
        """Another value for a scalar, in the quotes that it has."""
        if not isinstance(node, yaml.ScalarNode):
            raise Cannot("expected one value here, found a list or a mapping", node.start_mark.line + 1)
        if node.style in ("|", ">"):
            raise Cannot("a text block cannot be pinned; write the value on one line", node.start_mark.line + 1)
        start, end = node.start_mark.index, node.end_mark.index
        quote = node.style or ""
        blank = " " if start == end and start and not self._text[start - 1].isspace() else ""
        self._edits.append((start, end, f"{blank}{quote}{value}{quote}"))

    def set(self, node: yaml.MappingNode, name: str, value: str) -> None:
        _, key, found = self._pair(node, name)
        if isinstance(found, yaml.ScalarNode) and found.start_mark.index == found.end_mark.index:
            at = self._text.index(":", key.end_mark.index) + 1  # `key:` without a value
            self._edits.append((at, at, f" {value}"))
        else:
            self.replace(found, value)

    def rename(self, node: yaml.MappingNode, name: str, to: str) -> None:
        _, key, _ = self._pair(node, name)
        self._edits.append((key.start_mark.index, key.end_mark.index, to))

    def insert_after(self, node: yaml.MappingNode, name: str, new: str, value: str) -> None:
        _, key, found = self._pair(node, name)
        if node.flow_style:
            at = found.end_mark.index
            self._edits.append((at, at, f", {new}: {value}"))
            return
        at = self._line_end(found.end_mark.index)
        self._edits.append((at, at, f"{self._end_of_line}{' ' * key.start_mark.column}{new}: {value}"))

    def remove(self, node: yaml.MappingNode, name: str) -> None:
        number, key, found = self._pair(node, name)
        pairs = list(_pairs(node))
        if number == 0 and len(pairs) > 1:
            self._edits.append((key.start_mark.index, pairs[1][0].start_mark.index, ""))
        elif node.flow_style:
            self._edits.append((pairs[number - 1][1].end_mark.index, found.end_mark.index, ""))
        else:
            start = self._text.rindex("\n", 0, key.start_mark.index) + 1
            end = self._line_end(found.end_mark.index)
            self._edits.append((start, end + (len(self._end_of_line) if end < len(self._text) else 0), ""))

    def _line_end(self, at: int) -> int:
        """Before the line's end."""
        end = self._text.find("\n", at)
        if end < 0:
            return len(self._text)
        return end - 1 if end > at and self._text[end - 1] == "\r" else end


def _pairs(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from node.value
