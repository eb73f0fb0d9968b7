"""A snapshot becomes exactly the files that the build may see, and a hash that names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline.snapshot import EXECUTABLE, FILE, SYMLINK, Entry, pack, tree_id
from towline_image_builder.build.checkout import Answer, Order, prepare

APP = [
    Entry("Dockerfile", FILE, b"FROM scratch\nCOPY . /\n"),
    Entry("app.py", FILE, b"print()\n"),
    Entry("docs/a.md", FILE, b"text"),
    Entry("run", EXECUTABLE, b"#!/bin/sh\n"),
]


def order(entries: list[Entry], context: str = ".", dockerfile: str = "Dockerfile") -> Order:
    return Order(tree=tree_id(entries), context=context, dockerfile=dockerfile, args={})


def prepared(entries: list[Entry], top: Path, context: str = ".", dockerfile: str = "Dockerfile") -> Answer:
    return prepare(order(entries, context, dockerfile), pack(entries), top)


def test_the_answer_names_bases_and_steps(tmp_path: Path) -> None:
    entries = [Entry("d/Dockerfile", FILE, b"# hello\nFROM debian:12\nRUN true\n")]
    answer = prepared(entries, tmp_path / "t", "d", "d/Dockerfile")

    assert answer["bases"] == [{"token": "debian:12", "reference": "debian:12", "line": 2}]
    assert [(each["keyword"], each["line"]) for each in answer["steps"]] == [("FROM", 2), ("RUN", 3)]
    assert (answer["context"], answer["dockerfile"]) == ("d", "d/Dockerfile")


def test_ignored_files_are_gone_and_not_part_of_the_hash(tmp_path: Path) -> None:
    ignore = Entry(".dockerignore", FILE, b"docs\n*.tmp\n")
    first = prepared([*APP, ignore], tmp_path / "a")
    others = [each if each.path != "docs/a.md" else Entry(each.path, FILE, b"changed") for each in APP]
    second = prepared([*others, ignore, Entry("x.tmp", FILE, b"")], tmp_path / "b")

    assert sorted(each.name for each in (tmp_path / "a").iterdir()) == ["Dockerfile", "app.py", "run"]
    assert first["context_hash"] == second["context_hash"]


@pytest.mark.parametrize(
    "change",
    [
        Entry("app.py", FILE, b"print(1)\n"),
        Entry("app.py", EXECUTABLE, b"print()\n"),
        Entry("app.py", SYMLINK, b"run"),
        Entry("new", FILE, b""),
    ],
)
def test_whatever_the_build_can_see_is_part_of_the_hash(tmp_path: Path, change: Entry) -> None:
    before = prepared(APP, tmp_path / "a")
    after = prepared([*(each for each in APP if each.path != change.path), change], tmp_path / "b")

    assert before["context_hash"] != after["context_hash"]


def test_files_outside_of_the_context_are_not_part_of_the_hash(tmp_path: Path) -> None:
    inner = [Entry(f"svc/{each.path}", each.mode, each.content) for each in APP]
    before = prepared(inner, tmp_path / "a", "svc", "svc/Dockerfile")
    after = prepared([*inner, Entry("other", FILE, b"x")], tmp_path / "b", "svc", "svc/Dockerfile")

    assert before["context_hash"] == after["context_hash"]


def test_another_tree_than_the_ordered_one_is_refused(tmp_path: Path) -> None:
    answer = prepare(order(APP), pack(APP[:1]), tmp_path / "t")

    assert "expected" in answer["refused"]["message"]
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("more", "context", "dockerfile", "said", "file", "line"),
    [
        ([], "missing", "Dockerfile", "is no folder", "missing", None),
        ([], "app.py", "Dockerfile", "expected a folder", "app.py", None),
        ([], ".", "missing", "is no file", "missing", None),
        ([], ".", "docs", "not a file", "docs", None),
        ([Entry("bad", FILE, b"\xff")], ".", "bad", "not UTF-8", "bad", None),
        ([Entry("bad", FILE, b"FROM a\nRUM x")], ".", "bad", "unknown instruction", "bad", 2),
        ([Entry(".dockerignore", FILE, b"a\n[b")], ".", "Dockerfile", "has no ]", ".dockerignore", 2),
    ],
)
def test_a_persons_mistake_is_refused_with_its_place(
    tmp_path: Path, more: list[Entry], context: str, dockerfile: str, said: str, file: str, line: int | None
) -> None:
    refused = prepared([*APP, *more], tmp_path / "t", context, dockerfile)["refused"]

    assert said in refused["message"]
    assert (refused["file"], refused["line"]) == (file, line)


def test_a_context_is_followed_through_a_link_inside_of_the_tree_only(tmp_path: Path) -> None:
    entries = [Entry("real/Dockerfile", FILE, b"FROM scratch\n"), Entry("link", SYMLINK, b"real")]

    assert prepared(entries, tmp_path / "t", "link", "link/Dockerfile")["context"] == "real"
