"""The agent's own parts, each against what it really talks to: Git, a bus that is away, a missing cluster, the CRD."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from towline import flow
from towline.bus.port import TooLarge
from towline.delivery.model import Source
from towline.errors import BadInput, DependencyDown
from towline.events.base import Event, Outcome, Problem
from towline.events.deployment import Applied, Health
from towline.host import Host
from towline.settings import load
from towline.snapshot import SYMLINK
from towline.store import FolderStore
from towline_reconciler import repair
from towline_reconciler import status as states
from towline_reconciler.api import crd
from towline_reconciler.api.application import Application, ApplicationStatus
from towline_reconciler.cluster.client import Cluster
from towline_reconciler.cluster.login import NoLogin, login
from towline_reconciler.manifest import ObjectId
from towline_reconciler.messages import SyncBegan, SyncEnded
from towline_reconciler.repair import Contest
from towline_reconciler.report import Report, stamp
from towline_reconciler.service import build
from towline_reconciler.settings import ReconcilerSettings
from towline_reconciler.source import Mirror, NoBranch, change_of
from towline_reconciler.sync import bounded
from towline_reconciler.testing import SourceRepository, until

ROOT = Path(__file__).parents[3]
NOW, LATER = "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:01.000000Z"


@pytest.fixture
def source(tmp_path: Path) -> SourceRepository:
    return SourceRepository(tmp_path / "git")


class Nobody(Source):
    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        raise AssertionError("nothing happened that could be told")


# -- Git --------------------------------------------------------------------------------------------------------


async def test_the_tip_is_read_with_its_change_and_the_ids_of_its_folders(
    source: SourceRepository, tmp_path: Path
) -> None:
    mirror = Mirror(source.url, tmp_path / "mirrors")
    first = source.push({"deploy/a.yaml": "a\n", "app.py": "1"}, change="shop!one")
    tip, folders = await mirror.look("main", ("deploy", "none"))
    assert (tip.commit, tip.change) == (first, "shop!one")
    assert folders.ids[1] == "-"
    second = source.push({"app.py": "2"})
    tip, same = await mirror.look("main", ("deploy", "none"))
    assert (tip.commit, tip.change, same.key) == (second, None, folders.key)
    source.push({"deploy/a.yaml": "b\n"})
    assert (await mirror.look("main", ("deploy", "none")))[1].key != folders.key
    assert (await mirror.folders(first, ("deploy", "none"))).key == folders.key


async def test_only_the_chosen_folders_are_read_links_as_links(source: SourceRepository, tmp_path: Path) -> None:
    mirror = Mirror(source.url, tmp_path / "mirrors")
    commit = source.push({"deploy/a.yaml": "a\n", "deploy/empty": "", "deploy/l": "-> a.yaml", "app.py": "1"})
    await mirror.look("main", ("deploy",))
    entries = await mirror.entries(commit, ("deploy",), 1 << 20)
    assert [(each.path, each.content) for each in entries] == [
        ("deploy/a.yaml", b"a\n"),
        ("deploy/empty", b""),
        ("deploy/l", b"a.yaml"),
    ]
    assert entries[2].mode == SYMLINK
    with pytest.raises(BadInput, match=r"point spec\.source\.path at a folder of manifests"):
        await mirror.entries(commit, (".",), 2)


async def test_a_source_that_is_not_there_and_a_branch_that_is_not_there_differ(
    source: SourceRepository, tmp_path: Path
) -> None:
    source.push({"a": "1"})
    with pytest.raises(NoBranch, match="has no branch other"):
        await Mirror(source.url, tmp_path / "mirrors").look("other", (".",))
    with pytest.raises(DependencyDown, match="does not answer"):
        await Mirror(str(tmp_path / "nowhere.git"), tmp_path / "mirrors").look("main", (".",))
    with pytest.raises(BadInput):
        Mirror("ext::sh -c id", tmp_path / "mirrors")


@pytest.mark.parametrize("path", ["../etc", "a/../b", "a\nb", ".git"])
async def test_a_path_that_is_no_folder_of_a_repository_is_refused(
    path: str, source: SourceRepository, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="is no path of a folder"):
        await Mirror(source.url, tmp_path / "mirrors").look("main", (path,))


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("Title\n\nTowline-Change: shop!1\n", "shop!1"),
        ("Title\n\nBody\n\nSigned-off-by: x\nTowline-Change: shop!1\nTowline-Change: shop!2\n", "shop!2"),
        ("Title\n\nTowline-Change: shop!1\n\nBody\n", None),
        ("Towline-Change: shop!1\n", None),
        ("Title\n\nTowline-Change:\n", None),
        ("", None),
    ],
)
def test_the_change_is_a_trailer_of_the_last_paragraph(message: str, change: str | None) -> None:
    assert change_of(message) == change


# -- status and contests ----------------------------------------------------------------------------------------


def synced(outcome: Outcome, at: str = NOW) -> ApplicationStatus:
    made = states.last_sync(
        "c" * 40, "shop!1", "tree", outcome, generation=3, started=at, seconds=0.1, applied=Applied(), problems=()
    )
    inventory = {ObjectId("", "ConfigMap", "shop", "a"): "v1"}
    status = states.with_sync(ApplicationStatus(), made, inventory=inventory, now=at, generation=3)
    return states.with_ready(status, now=at, generation=3)


def test_ready_means_applied_and_healthy() -> None:
    status = synced(Outcome.SUCCESS)
    assert status.condition("Ready") is not None
    assert status.condition("Ready").status == "Unknown"  # type: ignore[union-attr]
    status = states.with_health(status, Health.HEALTHY, "", failed=False, now=LATER, generation=3)
    ready = states.with_ready(status, now=LATER, generation=3).condition("Ready")
    assert ready is not None
    assert (ready.status, ready.observed_generation) == ("True", 3)
    assert status.healthy_revision == "c" * 40


def test_a_failed_sync_moves_no_revision_and_is_not_ready() -> None:
    status = synced(Outcome.FAILURE)
    assert (status.revision, status.tree) == (None, None)
    ready = status.condition("Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "SyncFailed")


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    status = states.with_condition(ApplicationStatus(), "Synced", "True", "A", "", now=NOW, generation=1)
    status = states.with_condition(status, "Synced", "True", "B", "", now=LATER, generation=2)
    assert status.conditions[0].last_transition_time == NOW
    status = states.with_condition(status, "Synced", "False", "C", "", now=LATER, generation=2)
    assert status.conditions[0].last_transition_time == LATER


def test_the_inventory_survives_the_way_through_the_status() -> None:
    assert states.inventory_of(synced(Outcome.SUCCESS)) == {ObjectId("", "ConfigMap", "shop", "a"): "v1"}


def test_a_stamp_is_always_later_than_the_one_before() -> None:
    future = "2999-01-01T00:00:00.000000Z"
    assert stamp(future) > future
    assert stamp(stamp(future)) > stamp(future)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200))
def test_a_fight_never_spins(pauses: list[float]) -> None:
    """However fast another writer is: after PATIENCE repairs each wait is at least twice the first."""
    contest, now = Contest(), 1000.0
    for pause in pauses:
        now += pause
        due = contest.due(now)
        assert due == 0 or contest.repairs >= repair.PATIENCE
        assert due <= repair.LONGEST_WAIT
        now += due
        if contest.repairs >= repair.PATIENCE:
            assert now - contest.last + 1e-6 >= contest.wait >= repair.FIRST_WAIT  # sums of floats
        contest = contest.repaired(now)


def test_after_a_quiet_time_the_count_begins_anew() -> None:
    contest = Contest()
    for _ in range(repair.PATIENCE + 1):
        contest = contest.repaired(0.0)
    assert contest.is_fight
    after = contest.wait + repair.QUIET + 1
    assert contest.due(after) == 0
    assert contest.repaired(after).repairs == 1


# -- what is told -----------------------------------------------------------------------------------------------


class Narrow(Source):
    """A bus that takes no sync's end, as if it were too large."""

    def __init__(self) -> None:
        self.taken: list[type[Event]] = []

    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        if isinstance(event, SyncEnded):
            raise TooLarge("a record of 300000 bytes")
        self.taken.append(type(event))
        return id_basis


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: t0ken}}]
"""


async def test_what_the_bus_never_takes_does_not_end_the_telling(tmp_path: Path) -> None:
    """The task that tells died of it, and nothing was heard of the application until the next start."""
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    cluster = Cluster(await login(tmp_path / "kubeconfig"))
    live = {
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "1"},
        "spec": {"source": {"url": "/srv/a.git"}},
    }
    source = Narrow()
    report = Report(cluster, source, Application.of(live), id="local/shop/web", repo="srv/a")
    report.ended(NOW, "made", "c" * 40, None, Outcome.FAILURE, Applied(), (), 0.1)
    report.began(LATER, "made", "c" * 40, None)
    try:
        await until(lambda: source.taken == [SyncBegan])
    finally:
        await report.close()
        await cluster.close()


def test_a_problem_fits_into_an_event_however_long_the_names_that_it_quotes() -> None:
    """A kind or a name in a manifest may be a megabyte long, and no event or status could hold it."""
    told = bounded(Problem(message="x" * 1_000_000, file="y" * 1_000_000, line=3))
    assert (len(told.message), len(told.file or ""), told.line) == (1000, 1000, 3)
    assert bounded(Problem(message="short")) == Problem(message="short")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "hello",
        "",
        KUBECONFIG.replace('server: "http', 'certificate-authority-data: aGVsbG8=, server: "https'),
    ],
)
async def test_a_file_that_is_no_kubeconfig_is_a_sentence_that_does_not_quote_it(text: str, tmp_path: Path) -> None:
    """It was a bug's trace, again and again, and readiness went on saying that nothing was tried yet."""
    (tmp_path / "kubeconfig").write_text(text)
    with pytest.raises(NoLogin, match=r"kubeconfig is no kubeconfig that can be used \(\w+\); ") as refused:
        await login(tmp_path / "kubeconfig")
    assert "hello" not in str(refused.value)


# -- the definition, the settings, the service ------------------------------------------------------------------


def test_the_committed_definition_is_the_generated_one() -> None:
    assert (ROOT / "deploy/crds/applications.yaml").read_text() == crd.text()


def test_the_definition_is_structural() -> None:
    schema = yaml.safe_load(crd.text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

    def check(part: dict[str, object], path: str) -> None:
        assert "type" in part, path
        assert not {"$ref", "anyOf", "title", "$defs"} & part.keys(), path
        for name, each in dict(part.get("properties") or {}).items():  # type: ignore[call-overload]
            check(each, f"{path}.{name}")
        if "items" in part:
            check(part["items"], f"{path}[]")  # type: ignore[arg-type]

    check(schema, "")


def test_an_application_of_a_newer_version_is_read_as_far_as_it_is_known() -> None:
    live = {
        "metadata": {"namespace": "shop", "name": "web", "uid": "u", "resourceVersion": "1"},
        "spec": {"source": {"url": "/srv/a.git", "secretRef": {"name": "x"}}, "windows": []},
    }
    application = Application.of(live)
    assert (application.spec.source.branch, application.spec.timeout_seconds) == ("main", 300)


def test_the_settings_need_nothing_and_refuse_the_unknown() -> None:
    assert ReconcilerSettings().kubeconfig is None
    with pytest.raises(BadInput, match="did you mean kubeconfig"):
        load(ReconcilerSettings, None, {"TOWLINE_KUBECONFG": "/x"})


@pytest.mark.parametrize("missing", [True, False])
async def test_without_a_cluster_the_service_waits_and_says_for_what(missing: bool, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "nowhere" if missing else None
    service = build(ReconcilerSettings(kubeconfig=kubeconfig), Host(FolderStore(tmp_path / "store"), tmp_path))
    assert service.name == flow.RECONCILER
    assert service.ready() is None, "another member may be the agent"
    stopping = asyncio.Event()
    running = asyncio.ensure_future(service.watches[0](Nobody(), stopping))
    said = "there is no kubeconfig at" if missing else "the Pod's service account"
    try:
        await until(lambda: said in (service.ready() or ""))
    finally:
        stopping.set()
        await running


def test_a_login_does_not_import_the_generated_models() -> None:
    """104 MB and a second; and the first who asks for one of them still gets it."""
    code = """
import asyncio, sys
from pathlib import Path
from towline.errors import TowlineError
from towline_reconciler.cluster.login import login
try:
    asyncio.run(login(None))
except TowlineError:
    pass
assert not [name for name in sys.modules if name.startswith("kubernetes_asyncio.client.models.")]
import kubernetes_asyncio.client
assert kubernetes_asyncio.client.V1Pod(kind="Pod").kind == "Pod"
"""
    subprocess.run([sys.executable, "-c", code], check=True)
