"""The whole service on a real repository and the SQLite bus: from `git push` to a moved branch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from towline import snapshot
from towline.bus.port import Bus
from towline.bus.sqlite import SqliteBus
from towline.delivery.model import EffectContext
from towline.events import (
    CandidateCreated,
    CandidateRejected,
    CandidateSuperseded,
    ChangeAbandoned,
    ChangeCreated,
    ChangeMerged,
    ChangeUpdated,
    Outcome,
    Purpose,
)
from towline.host import Host
from towline.store import FolderStore
from towline_git_watcher.messages import CandidateLost, FetchRefs, Land, Landed
from towline_git_watcher.service import build
from towline_git_watcher.settings import GitWatcherSettings, RepositorySettings
from towline_git_watcher.testing import DIGEST, Clone, Verdicts, line
from towline_git_watcher.worker.listing import LFS

pytestmark = pytest.mark.whole_service


async def test_a_push_travels_to_the_branch_with_its_digests(top: Path, bus: Bus, clone: Clone) -> None:
    async with line(top, bus, clone.remote, Verdicts()) as running:
        await running.until_ready()
        head = clone.commit("Greet the world", {"app.py": "print('hello, world')\n"})
        before = clone.at("main")
        clone.push(head, "refs/heads/for/main/greet")
        merged = await running.log.wait_for(ChangeMerged)
    assert clone.at("main") == merged.landed
    assert merged.previous == before
    [created] = running.log.all(ChangeCreated)
    assert (created.title, created.author, created.change) == ("Greet the world", "Ada Løve", f"{created.repo}!greet")
    gate, landing = running.log.all(CandidateCreated)
    assert (gate.purpose, landing.purpose) == (Purpose.GATE, Purpose.LANDING)
    assert gate.changed_paths == ("app.py",)
    assert [job.name for job in gate.jobs] == ["unit"]
    assert not landing.jobs
    snapshot.unpack(running.store.get(gate.snapshot), top / "gate", tree=gate.source_tree)
    snapshot.unpack(running.store.get(landing.snapshot), top / "landing", tree=landing.source_tree)
    written = clone.show("main:deploy/kustomization.yaml")
    assert f"digest: {DIGEST} # by hand" in written
    assert "# Written when a change lands." in written
    assert clone.git("show", "-s", "--format=%(trailers)", "main", cwd=clone.remote).split() == [
        "Towline-Change:",
        created.change,
        "Towline-Candidate:",
        gate.candidate,
    ]
    assert clone.git("for-each-ref", "refs/heads/for", cwd=clone.remote) == ""


async def test_without_pins_the_candidate_itself_lands(top: Path, bus: Bus, clone: Clone) -> None:
    clone.push(clone.commit("Plain", {".towline.yaml": None}), "refs/heads/main")
    clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
    async with line(top, bus, clone.remote, Verdicts()) as running:
        merged = await running.log.wait_for(ChangeMerged)
    assert merged.landed == merged.candidate == clone.at("main")
    assert [each.purpose for each in running.log.all(CandidateCreated)] == [Purpose.GATE]


async def test_a_change_of_more_paths_than_an_event_tells_lands_all_the_same(top: Path, bus: Bus, clone: Clone) -> None:
    """None instead of the paths was not written and could not be read back: the gate stood still for good."""
    many: dict[str, str | None] = {f"{i:03}{'x' * 200}": "1" for i in range(400)}
    clone.push(clone.commit("x", many), "refs/heads/for/main/x")
    async with line(top, bus, clone.remote, Verdicts()) as running:
        merged = await running.log.wait_for(ChangeMerged)
    assert clone.at("main") == merged.landed
    assert {each.changed_paths for each in running.log.all(CandidateCreated)} == {None}


async def test_a_push_while_nobody_runs_is_found_at_the_start(top: Path, bus: Bus, clone: Clone) -> None:
    async with line(top, bus, clone.remote, Verdicts()) as running:
        await running.until_ready()
    clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
    async with line(top, bus, clone.remote, Verdicts()) as running:
        merged = await running.log.wait_for(ChangeMerged)
    assert clone.at("main") == merged.landed


async def test_polling_alone_finds_a_push_where_no_hook_may_be(top: Path, bus: Bus, clone: Clone) -> None:
    async with line(top, bus, clone.remote, Verdicts(), hooks=False, poll="1s") as running:
        await running.until_ready()
        clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
        await running.log.wait_for(ChangeMerged)
    assert not (clone.remote / "towline").exists()


async def test_a_change_with_a_malformed_object_is_rejected_and_another_lands(
    top: Path, bus: Bus, clone: Clone
) -> None:
    """Nothing of the repository was read any more until somebody removed the ref."""
    clone.push(clone.malformed(), "refs/heads/for/main/bad")
    clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
    async with line(top, bus, clone.remote, Verdicts(), hooks=False, poll="1s") as running:
        rejected = await running.log.wait_for(CandidateRejected)
        merged = await running.log.wait_for(ChangeMerged)
    assert (rejected.change.endswith("!bad"), rejected.stage) == (True, "merge")
    assert "malformed object; write that commit anew" in rejected.reason
    assert clone.at("main") == merged.landed


def of_topic(topic: str) -> Callable[[CandidateRejected], bool]:
    return lambda each: each.change.endswith(f"!{topic}")


def of_head(head: str) -> Callable[[CandidateRejected], bool]:
    return lambda each: each.head == head


REFUSED = {
    "yaml": ({".towline.yaml": "jobs:\n  unit: [\n"}, "configuration", "not YAML", ".towline.yaml:3"),
    "key": ({".towline.yaml": "jbos: {}\n"}, "configuration", "jobs", ".towline.yaml:1"),
    "pin": ({"deploy/kustomization.yaml": "images: []\n"}, "configuration", "add one", "deploy/kustomization.yaml:1"),
    "lfs": ({"big.bin": f"{LFS.decode()}v1\noid sha256:0\n"}, "configuration", "LFS", "big.bin"),
    "clash": ({"clash.txt": "theirs\n"}, "merge", "conflicts with its target in clash.txt", "clash.txt"),
}


async def test_what_cannot_become_a_candidate_is_refused_with_its_place(top: Path, bus: Bus, clone: Clone) -> None:
    base = clone.at("main")
    clone.push(clone.commit("Ours", {"clash.txt": "ours\n"}), "refs/heads/main")
    before = clone.at("main")
    for topic, (files, _, _, _) in REFUSED.items():
        clone.push(clone.commit(topic, files, on=base), f"refs/heads/for/main/{topic}")
    clone.push(base, "refs/heads/for/main/nothing")
    async with line(top, bus, clone.remote, Verdicts()) as running:
        for topic, (_, stage, said, where) in REFUSED.items():
            rejected = await running.log.wait_for(CandidateRejected, of_topic(topic))
            assert (rejected.stage, rejected.candidate) == (stage, None)
            assert said in rejected.reason
            assert str(rejected.problems[0]).startswith(where)
        rejected = await running.log.wait_for(CandidateRejected, lambda each: each.change.endswith("!nothing"))
        assert "nothing to land" in rejected.reason
    assert clone.at("main") == before


FAILING = [
    (Verdicts(pipeline={Purpose.GATE: Outcome.FAILURE}), "pipeline", "The pipeline failed: tests.py:3: 1 != 2."),
    (Verdicts(pipeline={Purpose.GATE: Outcome.ERROR}), "pipeline", "an error of the infrastructure"),
    (Verdicts(build={Purpose.GATE: Outcome.FAILURE}), "image", "The build failed."),
    (Verdicts(pipeline={Purpose.LANDING: Outcome.FAILURE}), "landing", "With its digests written"),
]


async def test_a_change_that_fails_is_rejected_and_lands_when_it_is_mended(top: Path, bus: Bus, clone: Clone) -> None:
    before, now = clone.at("main"), Verdicts()
    async with line(top, bus, clone.remote, now) as running:
        await running.until_ready()
        for number, (verdicts, stage, said) in enumerate(FAILING):
            now.pipeline, now.build = verdicts.pipeline, verdicts.build
            head = clone.commit("x", {"app.py": str(number)})
            clone.push(head, "refs/heads/for/main/x", "--force")
            rejected = await running.log.wait_for(CandidateRejected, of_head(head))
            assert (rejected.stage, clone.at("main")) == (stage, before)
            assert said in rejected.reason
        now.pipeline, now.build = {}, {}
        clone.push(clone.commit("y", {"app.py": "good"}), "refs/heads/for/main/x", "--force")
        await running.log.wait_for(ChangeMerged)
    assert clone.show("main:app.py") == "good"


async def test_a_new_head_replaces_the_candidate_and_deleting_the_ref_abandons_it(
    top: Path, bus: Bus, clone: Clone
) -> None:
    async with line(top, bus, clone.remote, Verdicts(silent={Purpose.GATE})) as running:
        await running.until_ready()
        first = clone.commit("x", {"app.py": "1"})
        clone.push(first, "refs/heads/for/main/x")
        old = await running.log.wait_for(CandidateCreated)
        clone.push(clone.commit("y", {"app.py": "2"}), "refs/heads/for/main/x", "--force")
        updated = await running.log.wait_for(ChangeUpdated)
        assert updated.previous == first
        superseded = await running.log.wait_for(CandidateSuperseded)
        assert superseded.candidate == old.candidate
        new = await running.log.wait_for(CandidateCreated, lambda each: each.candidate != old.candidate)
        clone.git("push", "--quiet", "origin", ":refs/heads/for/main/x")
        await running.log.wait_for(ChangeAbandoned)
        await running.log.wait_for(CandidateSuperseded, lambda each: each.candidate == new.candidate)


async def test_a_foreign_push_to_the_branch_makes_the_candidate_anew(top: Path, bus: Bus, clone: Clone) -> None:
    verdicts = Verdicts(silent={Purpose.GATE})
    async with line(top, bus, clone.remote, verdicts, hooks=False, poll="1s") as running:
        clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
        old = await running.log.wait_for(CandidateCreated)
        foreign = clone.commit("Foreign", {"other.txt": "1"})
        verdicts.silent.clear()
        clone.push(foreign, "refs/heads/main")
        merged = await running.log.wait_for(ChangeMerged)
    assert merged.previous == foreign
    assert [each.candidate for each in running.log.all(CandidateSuperseded)] == [old.candidate]


async def test_two_changes_land_one_after_the_other(top: Path, bus: Bus, clone: Clone) -> None:
    for name in ("x", "y"):
        clone.push(clone.commit(name, {f"{name}.txt": "1"}, on="origin/main"), f"refs/heads/for/main/{name}")
    async with line(top, bus, clone.remote, Verdicts()) as running:
        first = await running.log.wait_for(ChangeMerged)
        second = await running.log.wait_for(ChangeMerged, lambda each: each.change != first.change)
    assert second.previous == first.landed
    assert clone.show("main:x.txt") == clone.show("main:y.txt") == "1"


async def test_a_landing_whose_answer_was_lost_is_seen_to_have_landed(top: Path, bus: Bus, clone: Clone) -> None:
    """The push went through, its answer did not; then somebody pushed on top. The effect runs again."""
    one = RepositorySettings(url=str(clone.remote), hooks=False)
    watcher = build(GitWatcherSettings(repositories=(one,)), Host(FolderStore(top / "a"), top / "w"))
    head, old = clone.commit("x", {"app.py": "1"}), clone.at("main")
    clone.push(head, "refs/heads/for/main/x")
    handlers = {effect.kind: handler for effect, handler in watcher.effects.items()}
    at = EffectContext("effect-1", one.repo, 1)
    await handlers["fetch-refs"](FetchRefs(repo=one.repo, host="localhost", epoch=0), at)
    land = Land(
        repo=one.repo,
        host="localhost",
        change="c",
        ref="refs/heads/for/main/x",
        target="main",
        head=head,
        old=old,
        new=head,
    )
    assert isinstance(await handlers["land"](land, at), Landed)
    assert isinstance(await handlers["land"](land, at), Landed)
    on_top = clone.commit("Top", {"top.txt": "1"})
    clone.push(on_top, "refs/heads/main")
    again = await handlers["land"](land, at)
    assert isinstance(again, Landed)
    assert again.tip == on_top
    other = clone.commit("Other", {"other.txt": "1"}, on=old)
    clone.push(other, "refs/heads/for/main/x")
    lost = await handlers["land"](land.model_copy(update={"new": other, "head": other}), at)
    assert isinstance(lost, CandidateLost), "the branch is not where the candidate stands"
    lost = await handlers["land"](land.model_copy(update={"new": "1" * 40, "old": on_top}), at)
    assert isinstance(lost, CandidateLost), "the mirror does not hold it"
    moved = await handlers["land"](land.model_copy(update={"new": other, "old": on_top, "head": old}), at)
    assert isinstance(moved, CandidateLost), "the change is another one by now"
    assert clone.at("main") == on_top
    assert watcher.close is not None
    await watcher.close()


async def test_the_same_push_gives_the_same_candidate_anywhere(top: Path, bus: Bus, clone: Clone) -> None:
    clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
    found = []
    for place in ("one", "two"):
        (top / place).mkdir()
        opened = await SqliteBus.open(top / place / "bus.db")
        async with line(top / place, opened, clone.remote, Verdicts(silent={Purpose.GATE}), hooks=False) as running:
            found.append(await running.log.wait_for(CandidateCreated))
        await opened.close()
    assert found[0] == found[1]


async def test_a_repository_that_is_not_there_is_said_once_and_found_when_it_comes(
    top: Path, bus: Bus, clone: Clone, caplog: pytest.LogCaptureFixture
) -> None:
    clone.remote.rename(top / "away.git")
    async with line(top, bus, clone.remote, Verdicts(), poll="1s") as running:
        async with asyncio.timeout(20):
            while "no bare repository" not in (running.watcher.ready() or ""):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)  # two more tries
        (top / "away.git").rename(clone.remote)
        await running.until_ready()
    assert len([each for each in caplog.records if "cannot work with a repository" in each.message]) == 1
