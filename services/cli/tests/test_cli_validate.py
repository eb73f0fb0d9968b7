"""`towline validate` on a work tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline.errors import BadInput
from towline_cli.validate import validate

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: colours\ndata:\n  sky: blue\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "deploy").mkdir()
    (tmp_path / "deploy" / "colours.yaml").write_text(CONFIG_MAP)
    (tmp_path / ".towline.yaml").write_text("version: 1\nmanifests:\n  - deploy\n")
    return tmp_path


def test_a_good_tree_is_valid(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert validate(tree) == 0
    assert capsys.readouterr().out == "valid: nothing to complain about\n"


def test_a_wrong_manifest_is_named_with_its_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "deploy" / "colours.yaml").write_text(CONFIG_MAP.replace("sky: blue", "sky: [blue]"))

    assert validate(tree) == 1
    said = capsys.readouterr().out
    assert "deploy/colours.yaml:6: " in said
    assert said.endswith("1 problem\n")


def test_an_unreadable_configuration_is_named_with_its_line(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / ".towline.yaml").write_text("version: 1\njobbs: {}\n")

    assert validate(tree) == 1
    assert ".towline.yaml:2: `jobbs`: unknown key" in capsys.readouterr().out


def test_what_is_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is no folder; give the top of a work tree"):
        validate(tmp_path / "nothing")
