"""The jailed worker: what hostile repositories get from it, and what it can reach; each with its control."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline import snapshot
from towline.errors import DependencyDown, Retryable
from towline.events import Event
from towline.jail import NoJail
from towline.snapshot import Entry
from towline_git_watcher import objects
from towline_git_watcher.effects import _refusal
from towline_git_watcher.mirror import MOST_TITLES_BYTES, Mirror
from towline_git_watcher.objects import BadObject, GitObject
from towline_git_watcher.settings import LimitSettings, RepositorySettings
from towline_git_watcher.testing import Clone
from towline_git_watcher.watch import Watch
from towline_git_watcher.worker.pool import WORKER_UID, Answer, Workers, command

LIMITS = LimitSettings(merge_seconds=20, workers=1, tree_bytes=64 << 20)


class Jail:
    """A mirror of the clone's repository and a worker for it."""

    def __init__(self, top: Path, clone: Clone) -> None:
        self.clone = clone
        self.mirror = Mirror(RepositorySettings(url=str(clone.remote)), top / "mirrors", seconds=20, most_changes=9)
        self.workers = Workers(LIMITS, top / "w")

    async def candidate(self, head: str, base: str | None = None) -> Answer:
        base = base or self.clone.at("main")
        self.clone.push(head, "refs/heads/for/main/x", "--force")
        await self.mirror.fetch()
        return await self.workers.ask(self.mirror.objects, {"kind": "candidate", "base": base, "head": head})

    async def refused(self, head: str) -> str:
        answer = await self.candidate(head)
        return str(answer.header["refused"]["reason"])

    def tree(self, entries: list[tuple[str, str, str]]) -> str:
        """A commit on main whose tree has these entries (mode, id, path) beside those of main."""
        env = {"PATH": os.environ["PATH"], "GIT_INDEX_FILE": str(self.clone.folder / "hostile")}
        run = ["git", "-C", str(self.clone.folder)]
        subprocess.run([*run, "read-tree", "origin/main"], check=True, env=env)
        lines = "".join(f"{mode} {id}\t{path}\n" for mode, id, path in entries)
        subprocess.run([*run, "update-index", "--index-info"], check=True, env=env, input=lines, text=True)
        tree = subprocess.run([*run, "write-tree"], check=True, env=env, capture_output=True, text=True).stdout.strip()
        return self.clone.git("commit-tree", "-p", self.clone.at("main"), "-m", "hostile", tree)

    def blob(self, content: str) -> str:
        run = ["git", "-C", str(self.clone.folder), "hash-object", "-w", "--stdin"]
        return subprocess.run(run, check=True, input=content, capture_output=True, text=True).stdout.strip()


@pytest.fixture
async def jailed(top: Path, clone: Clone) -> AsyncIterator[Jail]:
    clone.git("fetch", "--quiet", "origin")
    made = Jail(top, clone)
    yield made
    await made.workers.close()


def entries(answer: Answer) -> dict[str, Entry]:
    found = snapshot.read(answer.snapshot)
    assert snapshot.tree_id(found) == answer.header["source_tree"]
    return {entry.path: entry for entry in found}


async def test_attributes_and_hooks_of_a_repository_change_nothing(jailed: Jail, top: Path) -> None:
    clone, mark = jailed.clone, top / "ran"
    evil = f"#!/bin/sh\ntouch {mark}\n"
    attributes = "*.txt export-ignore export-subst ident filter=evil merge=evil\n"
    files = {
        ".gitattributes": attributes,
        "a.txt": "$Format:%H$ $Id$\n",
        "hooks/post-merge": evil,
        ".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c evil\n',
        ".git-config": '[filter "evil"]\n\tsmudge = touch ran\n',
    }
    head = clone.commit("Attributes", files)
    answer = await jailed.candidate(head)
    found = entries(answer)
    assert found["a.txt"].content == b"$Format:%H$ $Id$\n"
    assert set(files) <= set(found)
    assert not mark.exists()
    archive = clone.git("archive", head)
    assert "a.txt" not in archive, "the control: archive leaves out what attributes hide"


async def test_submodules_and_paths_that_leave_the_tree_are_refused(jailed: Jail) -> None:
    clone, blob = jailed.clone, jailed.blob
    assert "submodules are not supported" in await jailed.refused(jailed.tree([("160000", clone.at("main"), "sub")]))
    for target in ("/etc/passwd", "../../etc/passwd"):
        said = await jailed.refused(jailed.tree([("120000", blob(target), "link")]))
        assert "link" in said
        assert "absolute path" in said or "out of the tree" in said
    good = await jailed.candidate(jailed.tree([("120000", blob("app.py"), "link")]))
    assert entries(good)["link"].mode == snapshot.SYMLINK


async def test_a_project_file_that_is_a_link_or_a_bomb_is_refused(jailed: Jail) -> None:
    linked = jailed.tree([("120000", jailed.blob("app.py"), ".towline.yaml")])
    assert "cannot be used" in await jailed.refused(linked)
    bomb = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(50))
    assert "anchors and aliases" in await jailed.refused(jailed.clone.commit("Bomb", {".towline.yaml": bomb}))
    huge = "jobs: {}\n" + "# x\n" * 100_000
    assert "at most 262144" in await jailed.refused(jailed.clone.commit("Huge", {".towline.yaml": huge}))


async def test_what_is_told_of_a_hostile_tree_fits_into_an_event(jailed: Jail) -> None:
    """It did not, and the change stood at the head of the queue for ever, waiting for an answer."""
    blob = jailed.blob("x")
    names = [
        f'"{letter}{chr(92)}001{"".join([chr(92) + "001"] * 200)}"' for letter in "abcdefghijklmnopqrstuvwxyz" * 10
    ]
    paths = [f'"{number}/' + name[1:] for number, name in enumerate(names)]
    answer = await jailed.candidate(jailed.tree([("100644", blob, path) for path in paths]))
    assert answer.header["changed_paths"] is None
    pins = "".join(f"      - {{yaml: v.yaml, path: p{number}.{'x' * 90}}}\n" for number in range(900))
    project = jailed.blob(f"images:\n  app:\n    pins:\n{pins}")
    refused = (await jailed.candidate(jailed.tree([("100644", project, ".towline.yaml")]))).header["refused"]
    assert len(refused["problems"]) == 900
    told = _refusal(refused)["problems"]
    assert len(told) == 50
    assert sum(len(problem.model_dump_json()) for problem in told) < 70_000


async def test_a_malformed_object_stops_its_own_change_alone(jailed: Jail) -> None:
    """One fetch of all refs failed for one of them: whoever could push could stop every change of the repository."""
    clone, mirror = jailed.clone, jailed.mirror
    await mirror.fetch()
    clone.push(clone.commit("Before", {"a": "1"}), "refs/heads/for/main/moved")
    clone.push(clone.malformed(), "refs/heads/for/main/bad")
    clone.push(clone.malformed(), "refs/heads/for/main/moved", "--force")
    clone.push(clone.commit("Good", {"a": "b"}), "refs/heads/for/main/good")
    found = {each.ref.rpartition("/")[2]: each for each in (await mirror.fetch()).changes}
    assert found.keys() == {"bad", "moved", "good"}
    assert [name for name, each in found.items() if each.refused] == ["bad", "moved"]
    assert "malformed object" in found["bad"].refused
    assert found["good"].title == "Good"
    assert mirror.holds(clone.at("main"), found["good"].head)
    clone.push("", "refs/heads/for/main/bad")
    clone.push(clone.commit("Mended", {"a": "c"}), "refs/heads/for/main/moved", "--force")
    clone.push(clone.commit("Later", {"a": "d"}), "refs/heads/for/main/good", "--force")
    for _ in range(2):  # apart, and then together again
        found = {each.ref.rpartition("/")[2]: each for each in (await mirror.fetch()).changes}
        assert {name: each.title for name, each in found.items()} == {"good": "Later", "moved": "Mended"}


async def test_a_malformed_object_on_a_gated_branch_is_said_and_the_mirror_is_not_emptied(jailed: Jail) -> None:
    await jailed.mirror.fetch()
    before = jailed.clone.at("main")
    jailed.clone.push(jailed.clone.malformed(), "refs/heads/main")
    with pytest.raises(DependencyDown, match=r"malformed object.*missingEmail"):
        await jailed.mirror.fetch()
    assert jailed.mirror.holds(before)


async def test_a_title_of_any_length_hides_no_change(jailed: Jail) -> None:
    """Git's listing went over its limit, and the repository was not read any more."""
    clone, message = jailed.clone, jailed.clone.folder.parent / "message"
    message.write_text("t" * (MOST_TITLES_BYTES + 1))
    tree = clone.git("rev-parse", "origin/main^{tree}")
    long = clone.git("commit-tree", "-p", clone.at("main"), "-F", str(message), tree)
    clone.push(long, "refs/heads/for/main/long")
    clone.push(clone.commit("Short", {"a": "b"}), "refs/heads/for/main/short")
    found = (await jailed.mirror.fetch()).changes
    assert {each.ref.rpartition("/")[2] for each in found} == {"long", "short"}


async def test_a_part_that_is_missing_is_said_by_readiness(jailed: Jail) -> None:
    """It was in the log alone, as a bug, while the service said that it had not looked yet."""
    stopping = asyncio.Event()

    async def prepare() -> None:
        stopping.set()
        raise NoJail("bwrap is not installed")

    watch = Watch(jailed.mirror, prepare)
    await watch.run(Unused(), stopping)
    assert watch.waits == "bwrap is not installed"


class Unused:
    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        raise AssertionError("nothing is seen before it is prepared")


async def test_a_broken_project_file_on_the_target_can_be_mended(jailed: Jail) -> None:
    clone = jailed.clone
    good = clone.show("main:.towline.yaml")
    clone.push(clone.commit("Break", {".towline.yaml": "jobs: [\n"}), "refs/heads/main")
    answer = await jailed.candidate(clone.commit("Mend", {".towline.yaml": good + "\n"}))
    assert answer.header["pinned"] is True


async def test_a_pin_that_cannot_be_written_is_refused_with_the_change_that_brings_it(jailed: Jail) -> None:
    """The target's rules count, so the mistake landed, and every change after it was refused in its place."""
    clone = jailed.clone
    good = clone.show("main:.towline.yaml")
    bad = good.replace("deploy/kustomization.yaml", "deploy/nowhere.yaml")
    assert bad != good
    said = await jailed.refused(clone.commit("Misspell", {".towline.yaml": bad}))
    assert "deploy/nowhere.yaml: the file with the pinned field does not exist" in said
    moved = {".towline.yaml": bad, "deploy/nowhere.yaml": clone.show("main:deploy/kustomization.yaml")}
    answer = await jailed.candidate(clone.commit("Move", moved))
    assert answer.header["pinned"] is True


async def test_unrelated_and_unknown_commits_are_told(jailed: Jail) -> None:
    clone = jailed.clone
    alone = clone.git("commit-tree", "-m", "alone", clone.git("rev-parse", "origin/main^{tree}"))
    assert "no commit in common" in await jailed.refused(alone)
    unknown = {"kind": "candidate", "base": clone.at("main"), "head": "1" * 40}
    assert (await jailed.workers.ask(jailed.mirror.objects, unknown)).header == {"missing": "1" * 40}


async def test_nothing_is_left_for_the_next_request_and_a_dead_worker_is_replaced(jailed: Jail) -> None:
    head = jailed.clone.commit("x", {"app.py": "1"})
    first = await jailed.candidate(head)
    assert (await jailed.candidate(head)) == first
    [pid] = jailed.workers.pids()
    os.kill(pid, 9)
    with pytest.raises(Retryable):
        async with asyncio.timeout(10):
            await _until_it_fails(jailed, head)
    assert (await jailed.candidate(head)) == first
    assert jailed.workers.pids() != [pid]


async def _until_it_fails(jailed: Jail, head: str) -> None:
    """The kill may be noticed at once, and then there is a new worker already."""
    while True:
        pids = jailed.workers.pids()
        await jailed.candidate(head)
        if jailed.workers.pids() != pids:
            raise Retryable("replaced at once")


# -- containment ------------------------------------------------------------------------------------------------------

PROBE = "import sys; print(open(sys.argv[1], 'rb').read(16))"
WRITE = "import sys; open(sys.argv[1] + '/x', 'w'); print('written')"


def inside(objects_dir: Path, code: str, *args: str) -> str:
    """A probe in the worker's own jail, in place of the worker."""
    argv = command(objects_dir)
    start = argv.index("towline_git_watcher.worker.child") - 1
    done = subprocess.run([*argv[:start], "-c", code, *args], env={}, capture_output=True, text=True, timeout=30)
    return done.stdout


def outside(code: str, *args: str) -> str:
    done = subprocess.run(["/usr/bin/python3", "-c", code, *args], capture_output=True, text=True, timeout=30)
    return done.stdout


async def test_the_worker_reaches_its_repositorys_objects_and_nothing_else(jailed: Jail, top: Path) -> None:
    await jailed.mirror.fetch()
    own, secret = jailed.mirror.objects, top / "secret"
    secret.write_text("token")
    for file in (str(secret), "/etc/shadow", f"/proc/{os.getpid()}/environ", str(jailed.mirror.git_dir / "HEAD")):
        assert outside(PROBE, file), f"the control must read {file}"
        assert inside(own, PROBE, file) == ""
    assert outside(WRITE, str(own)) == "written\n"
    assert inside(own, WRITE, "/mirror/objects") == ""
    assert inside(own, WRITE, "/tmp") == "written\n", "the control: its scratch folder can be written"
    assert inside(own, "import os; print(os.getuid(), sorted(os.environ))").startswith(str(WORKER_UID))
    names = "import os; print(*sorted(os.environ))"
    assert set(inside(own, names).split()) <= {"HOME", "LANG", "PATH", "PWD", "PYTHONPATH"}
    listed = "import socket; print([name for _, name in socket.if_nameindex()])"
    assert inside(own, listed) == "['lo']\n"
    assert outside(listed) != "['lo']\n", "the control: the host has a network"


def test_only_whole_blobs_and_honest_trees_come_out_of_the_jail(tmp_path: Path) -> None:
    blob = GitObject(b"blob", b"hello\n")
    assert blob.id == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert objects.check(objects.inflated(blob.deflated(), 100)) == blob
    with pytest.raises(BadObject, match="more than 3 bytes"):
        objects.inflated(blob.deflated(), 3)
    with pytest.raises(BadObject, match="unpacked"):
        objects.inflated(b"no zlib", 100)
    with pytest.raises(BadObject, match="kind b'commit'"):
        objects.check(GitObject(b"commit", b"tree x\n"))
    for mode, name in ((b"160000", b"sub"), (b"40000", b".git"), (b"100644", b".."), (b"100644", b"a/b"), (b"0", b"a")):
        with pytest.raises(BadObject, match="may not stand in one"):
            objects.check(GitObject(b"tree", b"%s %s\0%s" % (mode, name, bytes(20))))
    with pytest.raises(BadObject, match="damaged"):
        objects.check(GitObject(b"tree", b"100644 a\0short"))
    with pytest.raises(BadObject, match="malformed"):
        objects.commit("t", ("p",), "A <a@b> 1 +0000\nparent evil", "1 +0000", "x")
    written = objects.write(tmp_path, blob)
    assert objects.write(tmp_path, blob) == written
    assert (tmp_path / "ce" / written[2:]).stat().st_mode & 0o777 == 0o444


def test_a_commit_made_here_is_the_one_that_git_makes(clone: Clone) -> None:
    tree = clone.git("rev-parse", "main^{tree}", cwd=clone.remote)
    parent = clone.at("main")
    made = objects.commit(tree, (parent,), "Ada Løve <ada@example.test> 1700000100 +0100", "1700000100 +0100", "T\n")
    env = {
        "GIT_AUTHOR_NAME": "Ada Løve",
        "GIT_AUTHOR_EMAIL": "ada@example.test",
        "GIT_COMMITTER_NAME": "Towline",
        "GIT_COMMITTER_EMAIL": "towline@localhost",
        "GIT_AUTHOR_DATE": "1700000100 +0100",
        "GIT_COMMITTER_DATE": "1700000100 +0100",
        "PATH": os.environ["PATH"],
    }
    run = ["git", f"--git-dir={clone.remote}", "commit-tree", "-p", parent, "-m", "T", tree]
    assert subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout.strip() == made.id
