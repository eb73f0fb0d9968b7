"""One well-formed example of every event on the map, in the order in which one commit would cause them.

Rule: every event on the map has exactly one example; pages show it, and the wiring test sends it to its consumers.
"""

from __future__ import annotations

from typing import Any

from towline import flow
from towline.events import (
    Applied,
    ArtifactPackaged,
    ArtifactPublished,
    BuildFinished,
    BuildStarted,
    BuiltImage,
    CandidateCreated,
    CandidateRejected,
    CandidateSuperseded,
    ChangeAbandoned,
    ChangeCreated,
    ChangeMerged,
    ChangeUpdated,
    DriftDetected,
    DriftRepaired,
    Event,
    Health,
    HealthChanged,
    IncidentDetected,
    IncidentResolved,
    NoticeRendered,
    Outcome,
    PinnedImage,
    PipelineRunFinished,
    PipelineRunQueued,
    PipelineRunStarted,
    Problem,
    Purpose,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    Severity,
    SyncFinished,
    SyncStarted,
    TaskRunFinished,
    TaskRunStarted,
    Verdict,
)
from towline.project.model import ImageSpec, Job, KustomizePin

REPO = "git.example/shop/cart"
CHANGE = f"{REPO}!round-totals"
HEAD = "4f1c2a9b7d3e5f60718293a4b5c6d7e8f9012345"
EARLIER_HEAD = "0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e3f2a1b"
BASE = "11aa22bb33cc44dd55ee66ff7788990011223344"
CANDIDATE = "9c8b7a6f5e4d3c2b1a09f8e7d6c5b4a392817065"
LANDED = "c0ffee0123456789abcdefc0ffee0123456789ab"
TREE = "7e57ab1e00112233445566778899aabbccddeeff"
SNAPSHOT = "sha256:" + "5a" * 32
LOG = "sha256:" + "10" * 32
IMAGE = BuiltImage(name="cart", repository="registry.example/shop/cart", digest="sha256:" + "d1" * 32)
RUN = f"{CANDIDATE[:12]}-6b1e0f2d"
NOTICE_ABOUT = "3d0f6c1b2a49587660718293a4b5c6d7"

_CHANGE: dict[str, Any] = {"repo": REPO, "change": CHANGE, "target": "main", "head": HEAD}
_OF_CANDIDATE: dict[str, Any] = {
    "repo": REPO,
    "change": CHANGE,
    "candidate": CANDIDATE,
    "head": HEAD,
    "source_tree": TREE,
    "purpose": Purpose.GATE,
}
_TASK: dict[str, Any] = {**_OF_CANDIDATE, "run": RUN, "task": "test"}
_APP: dict[str, Any] = {
    "application": "prod/shop/cart",
    "repo": REPO,
    "revision": LANDED,
    "change": CHANGE,
}
_DRIFT: dict[str, Any] = {**_APP, "object": "Deployment shop/cart", "fields": ("spec.replicas",)}

EXAMPLES: tuple[Event, ...] = (
    ChangeCreated(**_CHANGE, title="Round totals to cents", author="Ada Example"),
    ChangeUpdated(**_CHANGE, previous=EARLIER_HEAD, title="Round totals to cents", author="Ada Example"),
    ChangeAbandoned(**_CHANGE, reason="The branch refs/heads/for/main/round-totals was deleted."),
    CandidateCreated(
        **_CHANGE,
        candidate=CANDIDATE,
        base=BASE,
        source_tree=TREE,
        snapshot=SNAPSHOT,
        purpose=Purpose.GATE,
        changed_paths=("cart.py", "tests.py"),
        jobs=(Job(name="test", run=("python3 -m unittest",)),),
        manifests=("deploy",),
        images_expected=(
            ImageSpec(name="cart", pins=(KustomizePin(kustomize="deploy/kustomization.yaml", image="cart"),)),
        ),
    ),
    CandidateSuperseded(**_CHANGE, candidate=CANDIDATE, reason="main moved; the change is merged with it again."),
    CandidateRejected(
        **_CHANGE,
        candidate=CANDIDATE,
        stage="pipeline",
        reason="The job test failed.",
        problems=(Problem(message="AssertionError: 10.999 != 11.0", file="tests.py", line=12, check="test"),),
    ),
    PipelineRunQueued(**_OF_CANDIDATE, run=RUN),
    PipelineRunStarted(**_OF_CANDIDATE, run=RUN),
    TaskRunStarted(**_TASK),
    TaskRunFinished(**_TASK, outcome=Outcome.SUCCESS, verdict=Verdict.VALID, exit_code=0, log=LOG, seconds=2.4),
    PipelineRunFinished(**_OF_CANDIDATE, run=RUN, outcome=Outcome.SUCCESS, verdict=Verdict.VALID, job_seconds=2.4),
    BuildStarted(**_OF_CANDIDATE),
    ArtifactPackaged(**_OF_CANDIDATE, image=IMAGE, seconds=8.1),
    ArtifactPublished(**_OF_CANDIDATE, image=IMAGE, seconds=0.6),
    BuildFinished(
        **_OF_CANDIDATE, outcome=Outcome.SUCCESS, images=(IMAGE,), log=LOG, build_seconds=8.1, push_seconds=0.6
    ),
    ChangeMerged(
        **_CHANGE,
        candidate=CANDIDATE,
        landed=LANDED,
        previous=BASE,
        source_tree=TREE,
        images=(PinnedImage(name="cart", reference=IMAGE.reference),),
    ),
    SyncStarted(**_APP),
    SyncFinished(**_APP, outcome=Outcome.SUCCESS, applied=Applied(configured=1, unchanged=1), seconds=0.2),
    HealthChanged(
        **_APP, health=Health.HEALTHY, previous=Health.PROGRESSING, reason="Deployment shop/cart: 2 of 2 ready"
    ),
    ServiceDeployed(**_APP, images=(IMAGE.reference,)),
    ServiceUpgraded(**_APP, images=(IMAGE.reference,)),
    ServiceRemoved(**_APP),
    DriftDetected(**_DRIFT),
    DriftRepaired(**_DRIFT, seconds=0.02),
    IncidentDetected(**_APP, reason="Deployment shop/cart: 0 of 2 replicas are ready"),
    IncidentResolved(**_APP, reason="Deployment shop/cart: 2 of 2 replicas are ready"),
    NoticeRendered(
        channel="team",
        group=CHANGE,
        kind="change-merged",
        severity=Severity.INFO,
        title="Merged: cart!round-totals into main",
        text=f"Pinned cart: {IMAGE.reference}",
        facts={"title": "Round totals to cents", "author": "Ada Example", "commit": LANDED[:12]},
        about=NOTICE_ABOUT,
        change=CHANGE,
    ),
)
EXAMPLE_OF: dict[type[Event], Event] = {type(example): example for example in EXAMPLES}


def events_on_map() -> tuple[type[Event], ...]:
    """Every event type in the order of the map."""
    return tuple(event for stream in flow.STREAMS for event in stream.events)
