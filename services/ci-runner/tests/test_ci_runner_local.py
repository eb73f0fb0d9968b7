"""`towline validate` says of a work tree what the server would."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from towline_ci_runner.local import check_folder
from towline_ci_runner.settings import CiRunnerSettings

PROJECT = "jobs:\n  unit:\n    run: make test\nmanifests: [deploy]\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: hello}\nspec:\n  ports:\n    - port: 80\n"


def tree(top: Path, **files: str) -> Path:
    (top / "deploy").mkdir()
    for name, text in {"project": PROJECT, "service": SERVICE, **files}.items():
        path = top / ".towline.yaml" if name == "project" else top / "deploy" / f"{name}.yaml"
        path.write_text(text)
    return top


def said(top: Path) -> list[str]:
    return [str(problem) for problem in check_folder(top)]


def test_a_good_tree_has_no_problem(tmp_path: Path) -> None:
    assert said(tree(tmp_path)) == []


def test_a_tree_without_a_file_of_towline_is_good(tmp_path: Path) -> None:
    assert said(tmp_path) == []


def test_a_wrong_project_is_told_with_its_line(tmp_path: Path) -> None:
    problems = said(tree(tmp_path, project="jobs:\n  unit:\n    run: make test\n    rum: make test\n"))
    assert [problem.partition(": ")[0] for problem in problems] == [".towline.yaml:4"]


def test_manifests_and_lint_are_told_together(tmp_path: Path) -> None:
    problems = said(tree(tmp_path, service=SERVICE.replace("80", "http"), other="a: 1\na: 2\n"))
    assert problems == [
        "deploy/other.yaml:2: the key 'a' stands twice in one mapping",
        "deploy/service.yaml:6: Service hello: spec.ports[0].port: expected a whole number, found the text 'http'",
        'deploy/other.yaml:2: duplication of key "a" in mapping (key-duplicates)',
    ]


def test_what_lies_outside_of_the_tree_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.yaml").write_text("a: 1\na: 2\n")
    top = tmp_path / "top"
    top.mkdir()
    tree(top)
    (top / "deploy" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    (top / "deploy" / "folder").symlink_to(tmp_path)
    assert said(top) == []
    (top / "deploy" / "own.yaml").symlink_to("service.yaml")
    (top / "deploy" / "service.yaml").write_text("a: 1\na: 2\n")
    assert {problem.partition(":")[0] for problem in said(top)} == {"deploy/own.yaml", "deploy/service.yaml"}


def test_a_kubernetes_version_without_schemas_is_refused_with_those_there_are() -> None:
    assert CiRunnerSettings(kubernetes="1.30").kubernetes == "1.30"
    with pytest.raises(ValidationError, match=r"schemas are here for 1\.25 to 1\.37, not for 1\.99"):
        CiRunnerSettings(kubernetes="1.99")
