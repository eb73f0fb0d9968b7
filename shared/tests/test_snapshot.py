"""Snapshots come back byte for byte, agree with Git on the tree id, and let nothing hostile out of their folder."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.snapshot import (
    EXECUTABLE,
    FILE,
    SYMLINK,
    BadSnapshot,
    Entry,
    Limits,
    contents,
    pack,
    read,
    tree_id,
    unpack,
)

APP = [
    Entry("app/main.py", FILE, b"print('hi')\n"),
    Entry("app.txt", FILE, b"sorts before app/ in Git"),
    Entry("app-2/run", EXECUTABLE, b"#!/bin/sh\n"),
    Entry("link", SYMLINK, b"app/main.py"),
    Entry("ü/ñ", FILE, b"\0\xff"),
]
HOSTILE = {
    "parent": Entry("../out", FILE, b""),
    "inner parent": Entry("a/../../out", FILE, b""),
    "dot": Entry("./a", FILE, b""),
    "absolute": Entry("/etc/passwd", FILE, b""),
    "double slash": Entry("a//b", FILE, b""),
    "nul": Entry("a\0b", FILE, b""),
    "git": Entry(".git/config", FILE, b""),
    "git in a folder": Entry("a/.GIT/hooks/x", FILE, b""),
    "git on hfs": Entry(".g\u200cit/config", FILE, b""),
    "git on ntfs": Entry("GIT~1/config", FILE, b""),
    "git with a stream": Entry(".git::$INDEX_ALLOCATION/config", FILE, b""),
    "git with trailing dots": Entry(".git . ./config", FILE, b""),
    "git by backslash": Entry("a\\.git\\config", FILE, b""),
    "submodule": Entry("sub", "160000", b""),
    "device mode": Entry("dev", "060000", b""),
    "absolute link": Entry("l", SYMLINK, b"/etc/shadow"),
    "link out": Entry("l", SYMLINK, b"../x"),
    "deep link out": Entry("a/b/l", SYMLINK, b"../../../x"),
    "empty link": Entry("l", SYMLINK, b""),
    "link to itself": Entry("l", SYMLINK, b"l"),
    "surrogate": Entry("a\udcff", FILE, b""),
}


def git_tree(folder: Path, repository: Path) -> str:
    git = ["git", f"--git-dir={repository}", f"--work-tree={folder}"]
    subprocess.run(["git", "init", "-q", "--bare", str(repository)], check=True)
    subprocess.run([*git, "add", "-A"], check=True, cwd=folder)
    return subprocess.run([*git, "write-tree"], check=True, capture_output=True, text=True).stdout.strip()


def damaged(archive: bytes) -> bytes:
    return zlib.compress(zlib.decompress(archive)[:-3])


def test_a_tree_comes_back_as_git_would_write_it(tmp_path: Path) -> None:
    unpack(pack(APP), tmp_path / "out", tree=tree_id(APP))
    assert git_tree(tmp_path / "out", tmp_path / "git") == tree_id(APP)
    assert (tmp_path / "out/link").readlink() == Path("app/main.py")
    assert (tmp_path / "out/app-2/run").stat().st_mode & 0o777 == 0o755


def test_the_order_of_entries_changes_nothing() -> None:
    assert pack(APP) == pack(APP[::-1])
    assert tree_id(APP) == tree_id(APP[::-1])


@given(
    st.dictionaries(
        st.lists(st.text("ab.-", min_size=1, max_size=3).filter(lambda part: part not in {".", ".."}), min_size=1)
        .filter(lambda parts: len(parts) < 4)
        .map("/".join),
        st.tuples(st.sampled_from([FILE, EXECUTABLE]), st.binary(max_size=20)),
        max_size=6,
    )
)
def test_every_good_tree_survives_the_round_trip(files: dict[str, tuple[str, bytes]]) -> None:
    names = [path for path in files if not any(other.startswith(path + "/") for other in files)]
    entries = [Entry(path, *files[path]) for path in names]
    back = read(pack(entries))
    assert sorted(back, key=str) == sorted(entries, key=str)
    assert tree_id(back) == tree_id(entries)


@given(st.binary(max_size=200))
def test_any_bytes_give_a_tree_or_a_clear_refusal(noise: bytes) -> None:
    for archive in (noise, zlib.compress(b"towline-snapshot 1\n" + noise)):
        try:
            read(archive)
        except BadSnapshot:
            continue


@pytest.mark.parametrize("entry", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_entry_is_refused_and_nothing_is_written(entry: Entry, tmp_path: Path) -> None:
    content = b"towline-snapshot 1\n"
    for each in (Entry("good", FILE, b"x"), entry):
        path = each.path.encode("utf-8", "surrogateescape")
        content += b"%s %d %d\n%s%s" % (each.mode.encode(), len(path), len(each.content), path, each.content)
    with pytest.raises(BadSnapshot):
        unpack(zlib.compress(content), tmp_path / "out", tree="0" * 40)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadSnapshot):
        pack([entry])


def test_links_through_other_links_may_not_leave_the_tree() -> None:
    deep = [Entry("a/b/p", SYMLINK, b"../../q"), Entry("q/x", FILE, b"")]
    pack([*deep, Entry("a/b/e", SYMLINK, b"p/../a")])
    with pytest.raises(BadSnapshot, match="a/b/e: the symlink points out of the tree"):
        pack([*deep, Entry("a/b/e", SYMLINK, b"p/../..")])


def test_a_link_is_read_as_the_file_that_it_points_to_inside_of_the_tree() -> None:
    entries = [
        Entry("deploy/a.yaml", FILE, b"a"),
        Entry("deploy/more/b.yaml", SYMLINK, b"../a.yaml"),
        Entry("deploy/nowhere", SYMLINK, b"c.yaml"),
    ]
    assert contents(entries) == {"deploy/a.yaml": b"a", "deploy/more/b.yaml": b"a"}


def test_a_link_that_ends_nowhere_inside_is_kept(tmp_path: Path) -> None:
    dangling = [Entry("l", SYMLINK, b"not/there")]
    unpack(pack(dangling), tmp_path, tree=tree_id(dangling))
    assert (tmp_path / "l").readlink() == Path("not/there")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([Entry("a", FILE, b""), Entry("a", FILE, b"")], "a: stands twice"),
        ([Entry("a", SYMLINK, b"b"), Entry("a/x", FILE, b"")], "a: is a file and a folder"),
    ],
)
def test_conflicting_paths_are_refused_by_name(entries: list[Entry], reason: str) -> None:
    with pytest.raises(BadSnapshot, match=reason):
        pack(entries)


def test_another_tree_than_promised_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadSnapshot, match=f"is of tree {tree_id(APP)}, expected {'1' * 40}"):
        unpack(pack(APP), tmp_path / "out", tree="1" * 40)
    assert not (tmp_path / "out").exists()


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    for archive in (pack(APP)[:-1], pack(APP) + b"x", damaged(pack(APP)), b"", zlib.compress(b"tar?\n")):
        with pytest.raises(BadSnapshot):
            unpack(archive, tmp_path / "out", tree=tree_id(APP))


def test_limits_hold_for_files_bytes_and_bombs() -> None:
    small = Limits(files=2, total_bytes=1000)
    with pytest.raises(BadSnapshot, match="more than 2 files"):
        read(pack(APP), limits=small)
    with pytest.raises(BadSnapshot, match="more than 1000 bytes"):
        pack([Entry("a", FILE, b"0" * 1001)], limits=small)
    with pytest.raises(BadSnapshot, match="unpacks to more than"):
        read(pack([Entry("a", FILE, b"0" * 10_000_000)]), limits=small)


def test_a_folder_with_files_in_it_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    with pytest.raises(BadSnapshot, match="is not empty"):
        unpack(pack(APP), tmp_path, tree=tree_id(APP))


def test_an_empty_tree_has_git_s_id_for_it(tmp_path: Path) -> None:
    unpack(pack([]), tmp_path, tree="4b825dc642cb6eb9a060e54bf8d69288fbee4904")


def test_the_module_loads_only_the_standard_library_and_errors() -> None:
    code = "import sys; from towline.snapshot import unpack; print([m for m in sys.modules if m.startswith('towline')])"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert sorted(eval(found)) == ["towline", "towline.errors", "towline.snapshot"]
