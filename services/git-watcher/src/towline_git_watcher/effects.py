"""The watcher's effects: each is idempotent (computing, fetching) or conditional (landing), so a repeat is harmless."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from towline.delivery.model import EffectContext
from towline.errors import DependencyDown, Permanent, Retryable
from towline.events import Event, PinnedImage, Problem, within_bounds
from towline.git import GitTooMuch, check_id
from towline.project.model import Project
from towline.store import ArtifactStore
from towline_git_watcher import objects, secret
from towline_git_watcher.messages import (
    CandidateComputed,
    CandidateLost,
    CandidateRefused,
    ComputeCandidate,
    FetchRefs,
    Land,
    Landed,
    PinsRefused,
    PinsWritten,
    RefsRead,
    WritePins,
)
from towline_git_watcher.mirror import Mirror, why_away
from towline_git_watcher.worker.pool import Answer, Workers

log = logging.getLogger(__name__)
_FOR_GOOD = ("hook declined", "deletion prohibited", "protected branch", "non-fast-forward")
CHANGE_TRAILER, CANDIDATE_TRAILER = "Towline-Change", "Towline-Candidate"


class Handlers:
    def __init__(
        self, mirrors: Mapping[str, Mirror], workers: Workers, store: ArtifactStore, key: bytes, object_bytes: int
    ) -> None:
        """`object_bytes` bounds one object out of the jail."""
        self._object_bytes = object_bytes
        self._mirrors = mirrors
        self._workers = workers
        self._store = store
        self._key = key
        self._told_left_out: dict[str, int] = {}

    async def fetch_refs(self, effect: FetchRefs, _: EffectContext) -> Event:
        mirror = self._mirror(effect.repo)
        found = await mirror.fetch()
        if found.left_out and self._told_left_out.get(effect.repo) != found.left_out:
            log.warning("refs are left out", extra={"repo": effect.repo, "count": found.left_out})
        self._told_left_out[effect.repo] = found.left_out
        return RefsRead(
            repo=effect.repo, epoch=effect.epoch, branches=found.branches, changes=found.changes, cut=found.cut
        )

    async def compute_candidate(self, effect: ComputeCandidate, _: EffectContext) -> Event:
        mirror = self._mirror(effect.repo)
        request = {"kind": "candidate", "base": effect.base, "head": effect.head}
        answer = await self._asked(mirror, request)
        same: dict[str, Any] = {
            "repo": effect.repo,
            "change": effect.change,
            "ref": effect.ref,
            "head": effect.head,
            "base": effect.base,
            "purpose": effect.purpose,
        }
        said = answer.header
        if refused := said.get("refused"):
            return CandidateRefused(**same, **_refusal(refused))
        if "missing" in said:
            raise Retryable(f"the mirror of {effect.repo} does not hold {said['missing']}")
        project = Project.model_validate(said["project"])
        made = _commit(said, effect.base, effect.head, _message(said, effect.change))
        snapshot = await asyncio.to_thread(self._kept, mirror, answer, made)
        return CandidateComputed(
            **same,
            candidate=made.id,
            tree=said["tree"],
            source_tree=said["source_tree"],
            snapshot=snapshot,
            changed_paths=said["changed_paths"],
            jobs=project.jobs,
            manifests=project.manifests,
            images=project.images,
            pinned=said["pinned"],
        )

    async def write_pins(self, effect: WritePins, _: EffectContext) -> Event:
        mirror = self._mirror(effect.repo)
        same = {"repo": effect.repo, "change": effect.change, "ref": effect.ref}
        request = {
            "kind": "landing",
            "base": effect.base,
            "head": effect.head,
            "tree": effect.tree,
            "source_tree": effect.source_tree,
            "images": [image.model_dump(mode="json") for image in effect.images],
        }
        answer = await self._asked(mirror, request)
        said = answer.header
        if refused := said.get("refused"):
            told = _refusal(refused)
            return PinsRefused(**same, candidate=effect.candidate, reason=told["reason"], problems=told["problems"])
        if "missing" in said:
            reason = "The mirror lost the candidate; it is computed again."
            return CandidateLost(**same, commit=effect.candidate, reason=reason)
        message = _message(said, effect.change, effect.candidate)
        made = _commit(said, effect.base, effect.head, message)
        snapshot = await asyncio.to_thread(self._kept, mirror, answer, made)
        return PinsWritten(
            **same,
            candidate=effect.candidate,
            landing=made.id,
            tree=said["tree"],
            snapshot=snapshot,
            manifests=tuple(said["manifests"]),
            images=tuple(PinnedImage.model_validate(image) for image in said["images"]),
        )

    async def land(self, effect: Land, _: EffectContext) -> Event:
        """Push; when the answer is not a plain yes, what happened is read from the branch itself."""
        mirror = self._mirror(effect.repo)
        same = {"repo": effect.repo, "change": effect.change, "ref": effect.ref, "commit": effect.new}
        key = secret.repository_key(self._key, effect.repo)
        options = [secret.permit(key, f"refs/heads/{effect.target}", effect.old, effect.new)]
        answer = None
        with contextlib.suppress(GitTooMuch):
            given = options if mirror.settings.with_hooks else []
            answer = await mirror.land(effect.target, effect.old, effect.new, effect.ref, effect.head, given)
            if answer.code == 0:
                return Landed(**same, tip=effect.new)
        if not await asyncio.to_thread(mirror.holds, effect.new):
            return CandidateLost(**same, reason="The mirror lost the landing commit; it is made again.")
        refs = await mirror.fetch()
        tip = refs.branches.get(effect.target)
        if tip is not None and await asyncio.to_thread(mirror.is_ancestor, effect.new, tip):
            return Landed(**same, tip=tip)
        if tip != effect.old:
            return CandidateLost(**same, reason=f"{effect.target} moved before the change could land.")
        if not any(each.ref == effect.ref and each.head == effect.head for each in refs.changes):
            return CandidateLost(**same, reason="The change moved before it could land.")
        if answer is None:
            raise DependencyDown(f"a push to {effect.repo} took too long")
        refused = f"{effect.repo} refuses Towline's push to {effect.target}: {_said(answer.err)}"
        if any(word in answer.err for word in _FOR_GOOD):
            raise Permanent(refused)
        if "remote rejected" in answer.err:
            raise Retryable(refused)  # such as a lock that somebody else holds
        raise DependencyDown(why_away(effect.repo, answer))

    def _mirror(self, repo: str) -> Mirror:
        try:
            return self._mirrors[repo]
        except KeyError:
            raise Permanent(f"{repo} is not watched any more") from None

    async def _asked(self, mirror: Mirror, request: dict[str, Any]) -> Answer:
        """The worker's answer; a mirror that lost objects is filled first."""
        await asyncio.to_thread(mirror.open)
        answer = await self._workers.ask(mirror.objects, request)
        if "missing" in answer.header:
            await mirror.fetch()
            answer = await self._workers.ask(mirror.objects, request)
        return answer

    def _kept(self, mirror: Mirror, answer: Answer, made: objects.GitObject) -> str:
        found = [objects.check(objects.inflated(each, self._object_bytes)) for each in answer.objects]
        mirror.keep([*found, made])
        return self._store.put(answer.snapshot)


def _refusal(refused: dict[str, Any]) -> dict[str, Any]:
    problems = within_bounds(Problem.model_validate(problem) for problem in refused["problems"])
    return {"stage": str(refused["stage"]), "reason": str(refused["reason"])[:600], "problems": problems}


def _commit(said: dict[str, Any], base: str, head: str, message: str) -> objects.GitObject:
    return objects.commit(check_id(said["tree"]), (base, head), said["author"], said["date"], message)


def _message(said: dict[str, Any], change: str, candidate: str | None = None) -> str:
    trailers = [f"{CHANGE_TRAILER}: {change}"]
    if candidate is not None:
        trailers.append(f"{CANDIDATE_TRAILER}: {candidate}")
    title = str(said["title"]).partition("\n")[0] or change
    return "\n".join([title, "", *trailers, ""])


def _said(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return " | ".join(lines[-4:])[:400]
