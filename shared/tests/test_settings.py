"""Settings: one file and the environment, and what a wrong key is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from towline.errors import BadInput
from towline.settings import load


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    poll: int = 30


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    bus: str = "sqlite:///x"
    git_watcher: Inner = Inner()
    repositories: list[Inner] = []


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "t.yaml", "git_watcher: {poll: 10}\n")
    environ = {"TOWLINE_GIT_WATCHER__POLL": "5", "TOWLINE_BUS": "kafka://b:1", "OTHER": "x"}
    loaded = load(Settings, file, environ)
    assert loaded.git_watcher.poll == 5
    assert loaded.bus == "kafka://b:1"


def test_an_unknown_key_is_refused_with_line_and_nearest_name(tmp_path: Path) -> None:
    file = write(tmp_path / "t.yaml", "bus: a\ngit_watcher:\n  pol: 10\n")
    with pytest.raises(BadInput, match=r"t\.yaml:3: unknown setting git_watcher\.pol; did you mean poll\?"):
        load(Settings, file, {})


def test_an_unknown_key_inside_a_list_is_refused_with_its_line(tmp_path: Path) -> None:
    file = write(tmp_path / "t.yaml", "repositories:\n  - poll: 1\n  - pall: 1\n")
    with pytest.raises(BadInput, match=r"t\.yaml:3: unknown setting repositories\.1\.pall; did you mean poll\?"):
        load(Settings, file, {})


def test_a_wrong_type_says_where_and_what_was_expected(tmp_path: Path) -> None:
    file = write(tmp_path / "t.yaml", "git_watcher:\n  poll: often\n")
    with pytest.raises(BadInput, match=r"t\.yaml:2: git_watcher\.poll: Input should be a valid integer"):
        load(Settings, file, {})


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "t.yaml", "bas: a\ngit_watcher: {poll: often}\n")
    with pytest.raises(BadInput) as raised:
        load(Settings, file, {})
    assert len(str(raised.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "expected keys and values"),
        ("a: \x01\n", "not YAML"),
        ("a: [\n", "not YAML"),
        ("a: &x 1\nb: *y\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        load(Settings, write(tmp_path / "t.yaml", text), {})


def test_a_variable_that_is_no_yaml_is_named_without_its_value() -> None:
    """It ended in a trace that quoted the value."""
    with pytest.raises(BadInput, match="TOWLINE_BUS is not YAML") as raised:
        load(Settings, None, {"TOWLINE_BUS": "@s3cret"})
    assert "s3cret" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        load(Settings, tmp_path, {})
    (tmp_path / "t.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(BadInput, match="not UTF-8"):
        load(Settings, tmp_path / "t.yaml", {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such settings file"):
        load(Settings, tmp_path / "none.yaml", {})


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load(Settings, write(tmp_path / "t.yaml", ""), {}) == Settings()
