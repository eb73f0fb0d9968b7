"""Records of decisions are short, indexed, and true where that can be checked: dependencies and their licences."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import metadata, packages_distributions
from pathlib import Path

import pytest

from towline.docs.decisions_page import page
from towline.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "decisions"
RECORDS = sorted(file for file in DECISIONS.glob("*.md") if file.name != "README.md")
LICENCES = (DECISIONS / "0004-dependencies-and-licences.md").read_text()
MEMBERS = [*sorted(ROOT.glob("services/*/pyproject.toml")), ROOT / "shared" / "pyproject.toml"]
PART_OF = {"pydantic-core": "pydantic"}
"""Distributions that come with another and are its business."""
AS_DATA = {"kubernetes-validate", "yamllint"}
"""Distributions that are read as files or run as programs, not imported."""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(pyproject: Path) -> set[str]:
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = [each for group in project.get("optional-dependencies", {}).values() for each in group]
    names = {normal(re.split(r"[\[<>=!~; ]", each)[0]) for each in project["dependencies"] + extras}
    return {name for name in names if not name.startswith("towline")}


def imported(source: Path) -> dict[str, set[str]]:
    """What the member's code imports, also inside of functions → third-party distributions that bring it."""
    names = {name.split(".")[0] for file in source.rglob("*.py") for name in imports(file)}
    known = packages_distributions()
    foreign = {name for name in names - sys.stdlib_module_names if name in known and not name.startswith("towline")}
    return {name: {PART_OF.get(each, each) for each in map(normal, known[name])} for name in foreign}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def licence_of(distribution: str) -> str:
    said = metadata(distribution).json
    words = [said.get("license_expression"), said.get("license"), *said.get("classifier", ())]
    return " ".join(str(each) for each in words if each)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_a_record_is_short_and_says_what_was_rejected(record: Path) -> None:
    text = record.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 25
    assert "reject" in text.lower() or "instead of" in text.lower()


def test_no_number_is_given_twice() -> None:
    numbers = [record.name[:4] for record in RECORDS]
    assert len(numbers) == len(set(numbers))


def test_the_index_names_every_record() -> None:
    index = page(ROOT / "docs")
    assert all(f"]({record.name})" in index for record in RECORDS)


def test_a_record_whose_title_is_not_its_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "decisions").mkdir()
    (tmp_path / "decisions" / "0042-an-answer.md").write_text("# 0043 An answer\n")
    with pytest.raises(BadInput, match=re.escape("0042-an-answer.md:1: a decision is named")):
        page(tmp_path)


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.parent.name)
def test_a_member_declares_what_it_imports_and_nothing_else(member: Path) -> None:
    own, shared = declared(member), declared(ROOT / "shared" / "pyproject.toml")
    used = imported(member.parent / "src")
    unknown = {name for name, brought_by in used.items() if not brought_by & (own | shared)}
    assert unknown == set(), "imported but not declared, here or in shared"
    assert own - {each for brought_by in used.values() for each in brought_by} - AS_DATA == set(), (
        "declared but not imported"
    )


def test_every_direct_dependency_stands_in_the_record_of_licences() -> None:
    rows = " ".join(line.split("|")[1] for line in LICENCES.splitlines() if line.startswith("| "))
    named = {normal(name.strip()) for name in re.split(r"[,\s]+", rows)}
    assert {name for member in MEMBERS for name in declared(member)} - named == set()


def test_only_one_dependency_is_gpl_and_nothing_imports_it() -> None:
    direct = {name for member in MEMBERS for name in declared(member)}
    assert {name for name in direct if "GPL" in licence_of(name)} == {"yamllint"}
    files = [file for member in MEMBERS for file in (member.parent / "src").rglob("*.py")]
    importing = {str(file.relative_to(ROOT)) for file in files if any("yamllint" in name for name in imports(file))}
    assert importing == set()
