"""The whole service on a real repository and the SQLite bus: from `git push` to a moved branch."""

from __future__ import annotations

from pathlib import Path

from towline import snapshot
from towline.bus.port import Bus
from towline.events import CandidateCreated, ChangeCreated, ChangeMerged, Purpose
from towline_git_watcher.testing import DIGEST, Clone, Verdicts, line


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
