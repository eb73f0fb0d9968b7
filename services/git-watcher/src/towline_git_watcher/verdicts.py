"""What follows from a pipeline's or a build's end. Pure.

Rules: the first result of each counts, unless it belongs to an earlier life of the candidate; the gate needs both;
the first failure ends the change's attempt at once, because its author can begin to mend it while others move up.
"""

from __future__ import annotations

from towline.events import BuildFinished, Outcome, PipelineRunFinished, Problem, Purpose
from towline_git_watcher import landing
from towline_git_watcher.gate.settle import Settling
from towline_git_watcher.state import Candidate, Change, Landing, Step

Finished = PipelineRunFinished | BuildFinished


def on_finished(turn: Settling, event: Finished) -> None:
    if turn.owes(f"{event.purpose} {event.candidate}", _name(event)):
        return
    for change in turn.changes.values():
        if event.purpose is Purpose.LANDING:
            if change.step is Step.CHECKING and change.landing and change.landing.id == event.candidate:
                _on_landing(turn, change, change.landing, event)
                return
        elif change.step is Step.TESTING and change.candidate and change.candidate.id == event.candidate:
            if change.purpose is event.purpose:
                _on_candidate(turn, change, change.candidate, event)
            return


def _on_candidate(turn: Settling, change: Change, candidate: Candidate, event: Finished) -> None:
    if _field(candidate, event) is not None:
        return
    update: dict[str, object] = {_name(event): event.outcome}
    if isinstance(event, BuildFinished):
        update["images"] = event.images
    candidate = candidate.model_copy(update=update)
    change = turn.put(change, candidate=candidate)
    if change.purpose is not Purpose.GATE:
        return  # a check informs; the gate decides
    if event.outcome is not Outcome.SUCCESS:
        stage = "image" if isinstance(event, BuildFinished) else "pipeline"
        turn.reject(change, stage, _why(event), event.problems)
    elif candidate.passed:
        landing.begin(turn, change, candidate)


def _on_landing(turn: Settling, change: Change, at: Landing, event: Finished) -> None:
    if _field(at, event) is not None:
        return
    at = at.model_copy(update={_name(event): event.outcome})
    change = turn.put(change, landing=at)
    if event.outcome is not Outcome.SUCCESS:
        turn.reject(change, "landing", f"With its digests written: {_why(event)}", event.problems)
    elif at.pipeline is Outcome.SUCCESS and at.build is Outcome.SUCCESS:
        landing.land(turn, change, at)


def _name(event: Finished) -> str:
    return "build" if isinstance(event, BuildFinished) else "pipeline"


def _field(of: Candidate | Landing, event: Finished) -> Outcome | None:
    return of.build if isinstance(event, BuildFinished) else of.pipeline


def _why(event: Finished) -> str:
    what = "The build" if isinstance(event, BuildFinished) else "The pipeline"
    first = _first(event.problems)
    match event.outcome:
        case Outcome.FAILURE:
            return f"{what} failed{first}"
        case Outcome.CANCEL:
            return f"{what} was cancelled{first} Push another head to try again."
        case _:
            return f"{what} could not be run, an error of the infrastructure{first} Push another head to try again."


def _first(problems: tuple[Problem, ...]) -> str:
    if not problems:
        return "."
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f": {str(problems[0]).rstrip('.')}{more}."
