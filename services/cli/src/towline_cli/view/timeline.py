"""The way of one change, line by line, as a pure function of the facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from towline_cli.view.facts import Fact
from towline_cli.view.names import short_digests
from towline_cli.view.progress import problem_line

_COMMITS = ("head", "candidate", "landed", "revision")
SHORTEST_COMMIT = 7


@dataclass(frozen=True, slots=True)
class Line:
    after: float
    """Seconds since the change was first seen."""
    stage: str
    text: str
    details: tuple[str, ...] = ()


def changes_of(facts: Sequence[Fact], name: str) -> list[str]:
    """The changes that a commit id (at least 7 digits), a change id or a topic stands for, oldest first."""
    found: dict[str, None] = {}
    for fact in facts:
        change = fact.change
        if change is None:
            continue
        is_commit = len(name) >= SHORTEST_COMMIT and any(
            str(fact.data.get(field, "")).startswith(name) for field in _COMMITS
        )
        if is_commit or change == name or change.endswith((f"!{name}", f"/{name}")):
            found[change] = None
    return list(found)


def timeline(facts: Sequence[Fact], change: str) -> list[Line]:
    own = [fact for fact in facts if fact.change == change]
    return [_line(fact, (fact.time - own[0].time).total_seconds()) for fact in own]


def trace_id(facts: Sequence[Fact], change: str) -> str | None:
    for fact in facts:
        if fact.change == change and fact.traceparent.count("-") == 3:
            return fact.traceparent.split("-")[1]
    return None


_STAGES = {
    "change": "git-watcher",
    "candidate": "git-watcher",
    "pipelinerun": "ci-runner",
    "taskrun": "ci-runner",
    "build": "image-builder",
    "artifact": "image-builder",
    "notice": "notifier",
}


def _line(fact: Fact, after: float) -> Line:
    stage = _STAGES.get(fact.name.partition(".")[0], "reconciler")
    text = f"{fact.name}{_about(fact)}"
    said = [_sentence(problem_line(problem)) for problem in fact.data.get("problems", ())]
    problems = tuple(problem for problem in dict.fromkeys(said) if problem not in text)
    return Line(after, stage, text, problems)


def _sentence(reason: object) -> str:
    """A reason may quote output; a timeline has one line for it."""
    return str(reason).partition("\n")[0]


def _about(fact: Fact) -> str:
    data = fact.data
    words: list[str] = []
    match fact.name:
        case "change.created" | "change.updated":
            words = [str(data["head"])[:12], f"“{data['title']}”" if data.get("title") else ""]
        case "candidate.created":
            words = [str(data["candidate"])[:12], f"for {data['purpose']}"]
        case "candidate.rejected":
            words = [f"({data['stage']})", _sentence(data["reason"])]
        case "change.merged":
            words = [str(data["landed"])[:12], *(str(image["reference"]) for image in data.get("images", ()))]
        case "taskrun.started" | "taskrun.finished":
            words = [str(data["task"]), str(data.get("verdict", "")), _sentence(data.get("reason", ""))]
        case "pipelinerun.finished" | "build.finished" | "sync.finished":
            words = [str(data["outcome"]), *(str(image["digest"]) for image in data.get("images", ()))]
        case "artifact.packaged" | "artifact.published":
            words = [str(data["image"]["name"]), str(data["image"]["digest"]), "(cached)" if data.get("cached") else ""]
        case "health.changed":
            words = [f"{data['previous']} → {data['health']}", _sentence(data.get("reason", ""))]
        case "drift.detected" | "drift.repaired":
            words = [str(data["object"]), ", ".join(data.get("fields", ()))]
        case "notice.rendered":
            words = [f"to {data['channel']}:", str(data["title"])]
        case name if name.startswith(("service.", "sync.", "incident.")):
            words = [str(data["application"]), str(data["revision"])[:12], _sentence(data.get("reason", ""))]
    said = short_digests(" ".join(word for word in words if word))
    return f" {said}" if said else ""
