"""The decision as a state machine: pushes, verdicts, lost answers, foreign moves, in any order and perhaps twice."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towline import flow
from towline.bus.port import MAX_APPEND_BYTES
from towline.bus.size import record_bytes
from towline.delivery.lane import Lane, records_of
from towline.delivery.model import Effect, EffectFailed, Envelope, Service
from towline.delivery.turn import Arrival, Turn, take
from towline.events import (
    BuildFinished,
    CandidateCreated,
    CandidateRejected,
    CandidateSuperseded,
    ChangeAbandoned,
    ChangeCreated,
    ChangeMerged,
    ChangeUpdated,
    Event,
    Outcome,
    PipelineRunFinished,
    Purpose,
    Verdict,
)
from towline.ids import digest_of
from towline_git_watcher.decide import Watched, decide
from towline_git_watcher.gate.queue import Place, plan
from towline_git_watcher.messages import (
    CandidateComputed,
    CandidateLost,
    CandidateRefused,
    ComputeCandidate,
    FetchRefs,
    Land,
    Landed,
    OpenRef,
    PinsWritten,
    RefsHinted,
    RefsRead,
    WritePins,
)
from towline_git_watcher.state import Step, WatcherState

REPO = "localhost/app"
WATCHED = {REPO: Watched("localhost", ("main",))}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOPICS = ("a", "b", "c")
OUTCOMES = (Outcome.SUCCESS, Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILURE, Outcome.ERROR, Outcome.CANCEL)


def commit(*parts: str) -> str:
    return digest_of(*parts)[:40]


def ref_of(topic: str) -> str:
    return f"refs/heads/for/main/{topic}"


class Gate(RuleBasedStateMachine):
    """The world is a branch and refs; whatever the watcher asked for may be answered late, twice or not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.state = WatcherState()
        self.main = commit("begin")
        self.history = [self.main]
        self.refs: dict[str, str] = {}
        self.asked: list[Effect] = []
        self.read: list[RefsRead] = []
        """Readings taken that did not arrive yet."""
        self.coming: dict[bool, list[Event]] = {False: [], True: []}
        """Ends of superseded candidates on their way, by service."""
        self.late: list[tuple[str, Event]] = []
        self.answers: list[Event] = []
        self.live: dict[tuple[str, str], CandidateCreated] = {}
        self.open: dict[str, str | None] = {}
        """Change → how it ended; None while it is open."""
        self.good: dict[str, set[str]] = {}
        self.landing: set[str] = set()
        self.landed: set[str] = set()
        """Changes that are on the branch, whatever the watcher knows of it."""
        self.seen = 0
        self.count = 0

    # -- the watcher ----------------------------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        self.count += 1
        envelope = Envelope(event, f"e{self.count}", "/t", NOW, REPO)
        before = self.state
        decision = decide(WATCHED, before, envelope, NOW)
        assert decision == decide(WATCHED, before, envelope, NOW), "the same decision again"
        assert decision.state is not None
        self.state = decision.state
        for said in decision.events:
            self.on_said(said)
        for effect in decision.effects:
            if isinstance(effect, Land):
                assert effect.target not in self.landing, "two landings of one branch at once"
                assert {"pipeline", "build"} <= self.good.get(effect.new, set()), "landing without both successes"
                self.landing.add(effect.target)
            self.asked.append(effect)

    def on_said(self, said: Event) -> None:
        match said:
            case ChangeCreated():
                assert self.open.get(said.change, "ended") is not None, "created while open"
                self.open[said.change] = None
            case ChangeUpdated():
                assert said.change in self.open
                self.open[said.change] = None
            case CandidateCreated():
                self.on_created(said)
            case CandidateSuperseded():
                gone = self.live.pop((said.change, said.candidate), None)
                assert gone is not None, "superseded what was not told"
                ended = self.good.get(f"{gone.candidate} {gone.purpose}", set())
                for build in (False, True):
                    if ("build!" if build else "pipeline!") not in ended:
                        self.coming[build].append(self.end_of(gone, Outcome.CANCEL, build))
            case CandidateRejected() | ChangeAbandoned() | ChangeMerged():
                assert self.open[said.change] is None, "ended twice"
                self.open[said.change] = type(said).__name__
                assert isinstance(said, ChangeMerged) == (said.change in self.landed), "merged is what has landed"
                self.landed.discard(said.change)
                if isinstance(said, CandidateRejected | ChangeMerged):
                    for key in [key for key in self.live if key[0] == said.change]:
                        if isinstance(said, ChangeMerged) or self.ended(self.live[key]):
                            del self.live[key]

    def on_created(self, said: CandidateCreated) -> None:
        key = (said.change, said.candidate)
        earlier = self.live.get(key)
        if earlier is not None and not self.ended(earlier):  # else its author came back to a head
            assert (earlier.purpose, said.purpose) == (Purpose.CHECK, Purpose.GATE)
        assert not [
            live
            for live in self.live.values()
            if live.change == said.change
            and live.purpose is said.purpose
            and live.candidate != said.candidate
            and said.purpose is Purpose.GATE
        ], "replaced without being superseded"
        self.live[key] = said
        self.good.pop(f"{said.candidate} {said.purpose}", None)
        if said.purpose is not Purpose.CHECK:
            self.good.pop(said.candidate, None)

    def ended(self, candidate: CandidateCreated) -> bool:
        return {"pipeline!", "build!"} <= self.good.get(f"{candidate.candidate} {candidate.purpose}", set())

    # -- the world ------------------------------------------------------------------------------------------------

    @initialize()
    def start(self) -> None:
        self.tell(RefsHinted(repo=REPO, by="sweep"))

    @rule(topic=st.sampled_from(TOPICS), head=st.integers(0, 2))
    def push(self, topic: str, head: int) -> None:
        self.refs[ref_of(topic)] = commit(topic, str(head))
        self.tell(RefsHinted(repo=REPO, by="hook"))

    @rule(topic=st.sampled_from(TOPICS))
    def delete(self, topic: str) -> None:
        if self.refs.pop(ref_of(topic), None):
            self.tell(RefsHinted(repo=REPO, by="hook"))

    @rule()
    def somebody_else_moves_the_branch(self) -> None:
        self.main = commit(self.main, "foreign")
        self.history.append(self.main)
        self.tell(RefsHinted(repo=REPO, by="poll"))

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), fail=st.sampled_from([False] * 9 + [True]), lost=st.booleans())
    def an_effect_is_done(self, data: st.DataObject, fail: bool, lost: bool) -> None:
        effect = data.draw(st.sampled_from(self.asked))
        self.asked.remove(effect)
        if isinstance(effect, Land):
            self.landing.discard(effect.target)
        answer = self.failure(effect) if fail else self.done(effect, lost)
        self.answers.append(answer)
        self.tell(answer)

    @precondition(lambda self: any(isinstance(each, FetchRefs) for each in self.asked))
    @rule()
    def refs_are_read_but_the_answer_is_late(self) -> None:
        effect = next(each for each in self.asked if isinstance(each, FetchRefs))
        self.asked.remove(effect)
        answer = self.done(effect, False)
        assert isinstance(answer, RefsRead)
        self.read.append(answer)

    @precondition(lambda self: self.read)
    @rule()
    def a_late_reading_arrives(self) -> None:
        self.tell(self.read.pop(0))

    @rule(steps=st.integers(1, 12))
    def all_goes_well_for_a_while(self, steps: int) -> None:
        """Up to a landing that was asked for; what happens then is for other rules."""
        for _ in range(steps):
            waiting = [each for each in self.live.values() if not self.ended(each)]
            effect = next((each for each in self.asked if not isinstance(each, Land)), None)
            if effect is not None:
                self.asked.remove(effect)
                self.tell(self.done(effect, False))
            elif waiting:
                for build in (False, True):
                    self.verdict(waiting[0], Outcome.SUCCESS, build)

    @precondition(lambda self: any(isinstance(each, Land) for each in self.asked))
    @rule()
    def a_landing_is_done_but_the_answer_is_late(self) -> None:
        effect = next(each for each in self.asked if isinstance(each, Land))
        self.asked.remove(effect)
        self.late.append((effect.target, self.done(effect, False)))

    @precondition(lambda self: self.late)
    @rule()
    def a_late_landing_is_told(self) -> None:
        target, answer = self.late.pop(0)
        self.landing.discard(target)
        self.tell(answer)

    def failure(self, effect: Effect) -> Event:
        payload = effect.model_dump(mode="json", exclude_defaults=True)
        return EffectFailed(effect="x", kind=effect.kind, reason="given up", payload=payload)

    def done(self, effect: Effect, lost: bool) -> Event:
        match effect:
            case FetchRefs():
                found = tuple(OpenRef(ref=ref, head=head) for ref, head in sorted(self.refs.items()))
                return RefsRead(repo=REPO, epoch=effect.epoch, branches={"main": self.main}, changes=found)
            case ComputeCandidate():
                same = {
                    "repo": REPO,
                    "change": effect.change,
                    "ref": effect.ref,
                    "head": effect.head,
                    "base": effect.base,
                    "purpose": effect.purpose,
                }
                if lost and effect.head.startswith("0"):
                    return CandidateRefused(**same, stage="merge", reason="conflict")
                made = commit(effect.base, effect.head)
                pinned = made[0] in "01234567"
                tree = commit("tree", made)
                return CandidateComputed(
                    **same, candidate=made, tree=tree, source_tree=tree, snapshot="s", changed_paths=(), pinned=pinned
                )
            case WritePins():
                return PinsWritten(
                    repo=REPO,
                    change=effect.change,
                    ref=effect.ref,
                    candidate=effect.candidate,
                    landing=commit("pins", effect.candidate),
                    tree="t",
                    snapshot="s",
                )
            case Land():
                return self.land(effect, lost)
        raise AssertionError(effect)

    def land(self, effect: Land, lost: bool) -> Event:
        same = {"repo": REPO, "change": effect.change, "ref": effect.ref, "commit": effect.new}
        if self.main == effect.old and self.refs.get(effect.ref) == effect.head:
            self.main = effect.new
            self.history.append(effect.new)
            del self.refs[effect.ref]
            self.landed.add(effect.change)
            if lost:  # the answer was lost, and somebody pushed on top before the branch was read
                self.main = commit(self.main, "on top")
                self.history.append(self.main)
            return Landed(**same, tip=self.main)
        return CandidateLost(**same, reason="moved")

    @precondition(lambda self: self.live)
    @rule(data=st.data(), outcome=st.sampled_from(OUTCOMES), build=st.booleans())
    def a_verdict_comes(self, data: st.DataObject, outcome: Outcome, build: bool) -> None:
        candidate = data.draw(st.sampled_from(sorted(self.live.values(), key=lambda each: each.candidate)))
        self.verdict(candidate, outcome, build)

    def verdict(self, candidate: CandidateCreated, outcome: Outcome, build: bool) -> None:
        while self.coming[build]:  # what a service says of one repository stays in order
            self.tell(self.coming[build].pop(0))
        if self.live.get((candidate.change, candidate.candidate)) is not candidate:
            return
        what = "build" if build else "pipeline"
        if f"{what}!" in self.good.get(f"{candidate.candidate} {candidate.purpose}", set()):
            return  # each ends once; copies are `an_old_answer_comes_again`
        ends = self.good.setdefault(f"{candidate.candidate} {candidate.purpose}", set())
        first = f"{what}!" not in ends
        ends.add(f"{what}!")
        if first and outcome is Outcome.SUCCESS and candidate.purpose is not Purpose.CHECK:
            self.good.setdefault(candidate.candidate, set()).add(what)
        self.tell(self.end_of(candidate, outcome, build))

    def end_of(self, candidate: CandidateCreated, outcome: Outcome, build: bool) -> Event:
        common = candidate.model_dump(include={"repo", "change", "candidate", "head", "source_tree", "purpose"})
        if build:
            return BuildFinished(**common, outcome=outcome)
        return PipelineRunFinished(**common, run="r", outcome=outcome, verdict=Verdict.VALID)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def an_old_answer_comes_again(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.answers))
        if isinstance(event, RefsRead | EffectFailed):
            return  # the delivery drops every copy; of those that name what they answer, none would do harm
        self.tell(event)

    # -- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def queues_hold_exactly_the_open_changes(self) -> None:
        queued = [ref for branch in self.state.branches.values() for ref in branch.queue]
        waiting = [ref for ref, change in self.state.changes.items() if change.step is not Step.REJECTED]
        assert sorted(queued) == sorted(waiting)
        known = {change.change for change in self.state.changes.values() if change.step is not Step.REJECTED}
        assert known == {change for change, end in self.open.items() if end is None}

    @invariant()
    def the_branch_never_seems_to_go_back(self) -> None:
        branch = self.state.branches.get("main")
        if branch is not None and branch.tip is not None:
            at = self.history.index(branch.tip)
            assert at >= self.seen
            self.seen = at

    @invariant()
    def at_most_one_stands_at_the_gate(self) -> None:
        gated = [each for each in self.state.changes.values() if each.purpose is Purpose.GATE and each.candidate]
        assert len(gated) <= 1

    def teardown(self) -> None:
        """With a calm world and good verdicts everything ends, and every change that is still pushed has landed."""
        while self.late:
            self.a_late_landing_is_told()
        while self.read:
            self.tell(self.read.pop(0))
        self.tell(RefsHinted(repo=REPO, by="poll"))
        for _ in range(200):
            for build in (False, True):
                while self.coming[build]:
                    self.tell(self.coming[build].pop(0))
            waiting = [each for each in self.live.values() if not self.ended(each)]
            if self.asked:
                effect = self.asked.pop(0)
                if isinstance(effect, Land):
                    self.landing.discard(effect.target)
                self.tell(self.done(effect, False))
            elif waiting:
                for build in (False, True):
                    self.verdict(waiting[0], Outcome.SUCCESS, build)
            else:
                break
        assert all(change.step is Step.REJECTED for change in self.state.changes.values())
        assert all(end is not None for end in self.open.values())
        assert set(self.state.changes) == set(self.refs)


Gate.TestCase.settings = settings(max_examples=5 * settings().max_examples, stateful_step_count=30, deadline=None)
TestGate = Gate.TestCase


def test_only_the_first_is_gated_and_planning_twice_changes_nothing() -> None:
    queue = [Place("a"), Place("b"), Place("c", Purpose.CHECK, "older")]
    wanted = plan(queue, "tip")
    assert wanted == [
        Place("a", Purpose.GATE, "tip"),
        Place("b", Purpose.CHECK, "tip"),
        Place("c", Purpose.CHECK, "older"),
    ]
    assert plan(wanted, "tip") == wanted
    assert plan([], "tip") == []


def test_a_reading_from_before_a_landing_is_taken_again_and_not_for_a_foreign_push() -> None:
    gate = Gate()
    gate.start()
    gate.push("a", 0)
    while not any(isinstance(each, Land) for each in gate.asked):
        gate.all_goes_well_for_a_while(1)
    gate.push("b", 0)
    gate.refs_are_read_but_the_answer_is_late()
    gate.a_landing_is_done_but_the_answer_is_late()
    gate.a_late_landing_is_told()
    gate.a_late_reading_arrives()
    assert gate.state.branches["main"].tip == gate.main
    assert [type(each) for each in gate.asked] == [FetchRefs]
    gate.teardown()
    assert list(gate.open.values()) == ["ChangeMerged", "ChangeMerged"]


def test_branches_are_worked_off_in_the_order_of_the_settings() -> None:
    """Their order was that of a set, so effects and their ids differed from process to process."""
    names = tuple("zyxwvutsrq")
    heads = {name: commit(name) for name in names}
    changes = tuple(OpenRef(ref=f"refs/heads/for/{name}/t", head=commit(name, "t")) for name in names)
    read = Envelope(RefsRead(repo=REPO, epoch=0, branches=heads, changes=changes), "e", "t", NOW, REPO)
    asked = decide({REPO: Watched("localhost", names)}, WatcherState(), read, NOW).effects
    assert [each.target for each in asked if isinstance(each, ComputeCandidate)] == list(names)


def test_a_change_that_a_cut_reading_leaves_out_is_not_abandoned() -> None:
    """Whoever pushed enough refs with older dates could have everybody else's changes told as deleted."""
    ours = OpenRef(ref=ref_of("ours"), head=commit("ours"))
    theirs = tuple(OpenRef(ref=ref_of(f"theirs-{number}"), head=commit("theirs", str(number))) for number in range(3))
    state = WatcherState()
    for number, (changes, cut) in enumerate((((ours,), False), (theirs, True), (theirs, False))):
        read = RefsRead(repo=REPO, epoch=0, branches={"main": commit("begin")}, changes=changes, cut=cut)
        decision = decide(WATCHED, state, Envelope(read, f"e{number}", "t", NOW, REPO), NOW)
        assert decision.state is not None
        state = decision.state
        abandoned = [event for event in decision.events if isinstance(event, ChangeAbandoned)]
        assert len(abandoned) == (0 if cut or number == 0 else 1)


def test_however_much_moves_at_once_a_turn_stays_small() -> None:
    """Every change under its longest name got a new head in one push, and what that said was over one append."""
    service = Service(flow.WATCHER, WatcherState, partial(decide, WATCHED))
    names = [f"{number:03}-{'x' * 370}" for number in range(300)]
    lane, sizes = Lane(REPO, WatcherState()), list[int]()

    def read(head: str, some: list[str]) -> Turn[WatcherState]:
        changes = tuple(OpenRef(ref=ref_of(name), head=commit(name, head)) for name in some)
        return hear(RefsRead(repo=REPO, epoch=0, branches={"main": commit("begin")}, changes=changes))

    def hear(event: Event) -> Turn[WatcherState]:
        nonlocal lane
        at = Arrival("inbox", len(sizes) + 1)
        turn = take(service, lane, Envelope(event, f"e{len(sizes)}", "t", NOW, REPO), at, NOW, lambda _: None)
        assert turn is not None
        sizes.append(sum(map(record_bytes, records_of("state", 0, REPO, turn.rows))))
        lane = turn.lane.done(turn.lane.outbox)
        return turn

    for head, some in (("1", names), ("2", names), ("2", [])):
        asks = True
        while asks:
            turn = read(head, some)
            asks = any(item.kind == FetchRefs.kind for item in turn.leaving)
            for item in turn.leaving:
                if item.kind == ComputeCandidate.kind:
                    same = {key: item.effect[key] for key in ("repo", "change", "ref", "head", "base", "purpose")}
                    tree = commit("tree", item.id)
                    more = {"candidate": commit("candidate", item.id), "tree": tree, "source_tree": tree}
                    told = {**same, **more, "snapshot": "s", "changed_paths": None, "pinned": False}
                    hear(CandidateComputed.model_validate(told))
    assert lane.state.changes == {}
    assert max(sizes) < MAX_APPEND_BYTES / 4


def test_an_answer_of_an_earlier_life_does_not_lose_a_candidate_under_test() -> None:
    gate = Gate()
    gate.start()
    gate.push("a", 0)
    while not gate.live:
        gate.all_goes_well_for_a_while(1)
    [candidate], [change] = gate.live.values(), gate.state.changes.values()
    assert change.step is Step.TESTING
    lost = CandidateLost(repo=REPO, change=change.change, ref=change.ref, commit=candidate.candidate, reason="gone")
    said = decide(WATCHED, gate.state, Envelope(lost, "e", "t", NOW, REPO), NOW)
    assert (said.state, said.events) == (gate.state, ())


def test_the_cancel_of_a_superseded_candidate_is_not_taken_for_its_second_life() -> None:
    """Deleting a change and pushing the same head again gives the same candidate."""
    gate = Gate()
    gate.start()
    gate.push("a", 0)
    gate.all_goes_well_for_a_while(3)
    gate.delete("a")
    gate.all_goes_well_for_a_while(1)
    gate.push("a", 0)
    gate.all_goes_well_for_a_while(2)
    [again] = gate.live.values()
    assert gate.coming[False][0] == gate.end_of(again, Outcome.CANCEL, False)
    gate.teardown()
    assert list(gate.open.values()) == ["ChangeMerged"]
    assert gate.state.owed == {}
