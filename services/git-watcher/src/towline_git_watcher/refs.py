"""What follows from refs as they were read: changes begin, go on with another head, or end; branches move. Pure.

Rule: a reading from before a landing, or while one is under way, says nothing; it is asked for again. So the
watcher's own landings never look like somebody else's pushes.
"""

from __future__ import annotations

from collections.abc import Sequence

from towline.events import ChangeCreated, ChangeUpdated
from towline_git_watcher.change import change_of, target_of
from towline_git_watcher.gate.settle import Settling, about
from towline_git_watcher.messages import OpenRef, RefsRead
from towline_git_watcher.state import Branch, Change, Step

MOST_AT_ONCE = 50
"""Changes that begin, go on or end in one turn, so that its batch stays small; the rest is read again."""


MOST_KNOWN = 500
"""Changes of a repository; a new one beyond them waits. Where a reading is cut, known ones that it leaves out stay."""


def on_read(turn: Settling, event: RefsRead, gated: Sequence[str]) -> None:
    turn.reading = False
    if any(change.step is Step.LANDING for change in turn.changes.values()):
        turn.again = True  # asked for when the landing has ended
        return
    if event.epoch != turn.epoch:
        turn.read_refs()
        return
    for name in dict.fromkeys((*gated, *turn.branches)):  # in order: effects are asked for branch by branch
        branch = turn.branches.get(name, Branch())
        turn.branches[name] = branch.model_copy(update={"tip": event.branches.get(name) if name in gated else None})
    found = {each.ref: each for each in event.changes if target_of(each.ref, gated) in gated}
    gone = [
        change
        for ref, change in turn.changes.items()
        if ref not in found and (not event.cut or change.target not in gated)
    ]
    known = [each for ref, each in found.items() if ref in turn.changes and turn.changes[ref].head != each.head]
    new = [each for ref, each in found.items() if ref not in turn.changes]
    moved = known + new[: max(0, MOST_KNOWN - len(turn.changes))]
    for change in gone[:MOST_AT_ONCE]:
        turn.abandon(change, _why_gone(change, gated))
    for each in moved[: max(0, MOST_AT_ONCE - len(gone))]:
        _on_ref(turn, each, gated)
    for name in [name for name, branch in turn.branches.items() if name not in gated and not branch.queue]:
        del turn.branches[name]
    if turn.again or len(gone) + len(moved) > MOST_AT_ONCE:
        turn.read_refs()


def _why_gone(change: Change, gated: Sequence[str]) -> str:
    if change.target not in gated:
        return f"{change.target} is no gated branch any more."
    return f"{change.ref.removeprefix('refs/heads/')} was deleted."


def _on_ref(turn: Settling, found: OpenRef, gated: Sequence[str]) -> None:
    known = turn.changes.get(found.ref)
    target = target_of(found.ref, gated)
    assert target is not None
    change = Change(change=change_of(turn.repo, found.ref, gated), ref=found.ref, target=target, head=found.head)
    words = {**about(turn.repo, change), "title": found.title, "author": found.author}
    if known is None:
        turn.events.append(ChangeCreated(**words))
    else:
        turn.supersede(known, "Its author pushed a new head.")
        turn.events.append(ChangeUpdated(**words, previous=known.head))
    turn.enqueue(change)
    if found.refused:
        turn.reject(turn.changes[found.ref], "merge", found.refused)
    elif turn.branches[target].tip is None:
        turn.reject(turn.changes[found.ref], "merge", f"There is no branch {target} to land on; push it first.")
