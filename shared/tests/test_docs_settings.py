"""The page of settings names every key that there is, and every place it names exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from towline.docs.written import run
from towline_cli.docs import documents, page
from towline_cli.settings import TowlineSettings

PAGE = page()


def keys_of(model: type[BaseModel]) -> set[str]:
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            names |= keys_of(inner)
    return names


def models_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {found for each in get_args(annotation) for found in models_in(each)}


def test_every_key_has_its_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert rows == keys_of(TowlineSettings)


def test_every_key_says_what_it_means() -> None:
    silent = [row for row in PAGE.splitlines() if row.startswith("| `") and row.endswith("|  |")]
    assert silent == []


def test_every_link_leads_to_a_heading() -> None:
    headings = {re.sub(r"[^a-z0-9_-]", "", each.lower()) for each in re.findall(r"^## (.*)$", PAGE, re.MULTILINE)}
    links = re.findall(r"\]\(#([^)]*)\)", PAGE)
    assert links
    assert set(links) <= headings


def test_a_page_that_differs_is_named_with_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.md").write_text("old")
    assert run(["--check", str(tmp_path)], "python -m towline_cli.docs", documents) == 1
    assert capsys.readouterr().err.endswith("run: python -m towline_cli.docs\n")
