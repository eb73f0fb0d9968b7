"""Keeps generated documents as they should be: writes them, and names those that differ.

A document is made whole, or between two markers in a page that a person wrote:
`<!-- generated: NAME -->` … `<!-- end: NAME -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from towline.errors import BadInput, Location


def filled(page: Path, sections: Mapping[str, str]) -> str:
    """The page with each section between its markers. Raises BadInput when a marker is missing."""
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    for name, content in sections.items():
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        found = re.search(f"{re.escape(begin)}.*?{re.escape(end)}", text, re.DOTALL)
        if found is None:
            raise BadInput(f"expected the markers {begin} and {end} around what is generated", at=Location(str(page)))
        text = f"{text[: found.start()]}{begin}\n\n{content}\n\n{end}{text[found.end() :]}"
    return text


def stale(root: Path, documents: Mapping[str, str], folders: Iterable[str] = ()) -> list[str]:
    """Names of documents that are not what they should be; in `folders`, which are wholly generated, also any other."""
    wrong = [
        name
        for name, content in documents.items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != content
    ]
    return wrong + sorted(_strangers(root, documents, folders))


def write(root: Path, documents: Mapping[str, str], folders: Iterable[str] = ()) -> None:
    for name in _strangers(root, documents, folders):
        (root / name).unlink()
    for name, content in documents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")


def _strangers(root: Path, documents: Mapping[str, str], folders: Iterable[str]) -> list[str]:
    found = (str(path.relative_to(root)) for folder in folders for path in (root / folder).glob("*"))
    return [name for name in found if name not in documents]


def run(
    arguments: list[str],
    command: str,
    documents: Callable[[Path], Mapping[str, str]],
    folders: Iterable[str] = (),
) -> int:
    """`[--check] [DOCS]`: writes, or returns 1 after naming each document that differs. Other arguments: 2."""
    check = "--check" in arguments
    rest = [argument for argument in arguments if argument != "--check"] or ["docs"]
    if len(rest) > 1 or rest[0].startswith("-"):
        sys.stderr.write(f"usage: {command} [--check] [DOCS]\n")
        return 2
    root = Path(rest[0])
    try:
        wanted = documents(root)
    except BadInput as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not check:
        write(root, wanted, folders)
        return 0
    wrong = stale(root, wanted, folders)
    for name in wrong:
        sys.stderr.write(f"{root / name} differs from what the code says; run: {command}\n")
    return 1 if wrong else 0
