"""The watch cache: records never go back, our own applies are no drift, everybody else's changes of our fields are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import Location
from towline_reconciler.api.application import LABEL, NAMESPACE_LABEL
from towline_reconciler.cluster.client import Cluster
from towline_reconciler.cluster.login import login
from towline_reconciler.live import LiveObjects
from towline_reconciler.manifest import Desired, ObjectId

ID = ObjectId("", "ConfigMap", "shop", "a")
Json = dict[str, Any]


def live_of(version: int, value: str = "1", *, owned: bool = True, uid: str = "u", **data: str) -> Json:
    fields: Json = {"f:data": {"f:value": {}}} if owned else {}
    manager = {"manager": "towline", "operation": "Apply", "apiVersion": "v1", "fieldsV1": fields}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "a",
            "namespace": "shop",
            "uid": uid,
            "resourceVersion": str(version),
            "labels": {LABEL: "web", NAMESPACE_LABEL: "shop"},
            "managedFields": [manager],
        },
        "data": {"value": value, **data},
    }


def desired_of(value: str = "1") -> Desired:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"value": value}}
    return Desired(ID, "v1", orjson.dumps(body), Location("a.yaml", 1))


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A login to nowhere: nothing here asks it anything."""
    (tmp_path / "kubeconfig").write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: c, user: u}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]\nusers: [{name: u, user: {token: t}}]\n"
    )
    made = Cluster(await login(tmp_path / "kubeconfig"))
    yield made
    await made.close()


@given(versions=st.permutations(range(1, 6)))
def test_whatever_the_order_the_newest_version_stays(versions: list[int]) -> None:
    live = LiveObjects(None)  # type: ignore[arg-type]
    for version in versions:
        live.changed(live_of(version, str(version)))
    record = live.record(ID)
    assert record is not None
    assert record.version == 5


async def test_our_own_apply_is_no_drift_whichever_of_watch_and_answer_comes_first(cluster: Cluster) -> None:
    live = LiveObjects(cluster)
    told: list[ObjectId] = []
    live.listen([ID], told.append)
    live.changed(live_of(1))
    live.applied(desired_of("2"), live_of(3, "2"))
    live.changed(live_of(2, "1"))  # from before our apply, told late
    live.changed(live_of(3, "2"))  # our apply, told by the watch
    assert live.drift(ID) is None
    assert told == [ID]
    live.changed(live_of(4, "2", other="of somebody else"))
    assert live.drift(ID) is None


async def test_a_controllers_answer_to_our_apply_is_no_drift_when_it_is_told_before_our_own(cluster: Cluster) -> None:
    """The bug: judged by the apply before, our own new value looked like somebody's change, for ever."""
    live = LiveObjects(cluster)
    live.applied(desired_of("1"), live_of(1, "1"))
    with live.applying(ID):
        live.changed(live_of(3, "2", other="of its controller"))
        live.applied(desired_of("2"), live_of(2, "2"))
    assert live.drift(ID) is None
    record = live.record(ID)
    assert record is not None
    assert record.version == 3
    with live.applying(ID):
        live.changed(live_of(5, "by hand"))
        live.applied(desired_of("3"), live_of(4, "3"))
    assert live.drift(ID) == ("data.value",)


async def test_a_field_that_another_writer_took_is_drift_although_it_is_no_longer_ours(cluster: Cluster) -> None:
    live = LiveObjects(cluster)
    live.applied(desired_of(), live_of(1))
    live.changed(live_of(2, "by hand", owned=False))
    assert live.drift(ID) == ("data.value",)


async def test_a_deleted_object_is_drift_and_one_made_anew_by_us_is_not(cluster: Cluster) -> None:
    live = LiveObjects(cluster)
    live.applied(desired_of(), live_of(1))
    live.deleted({"apiVersion": "v1", "kind": "ConfigMap", "metadata": live_of(1)["metadata"]})
    assert live.drift(ID) == ()
    live.applied(desired_of(), live_of(5, uid="another"))
    live.deleted(live_of(4))  # the first one's end, told late
    assert live.drift(ID) is None


async def test_what_was_never_applied_nor_adopted_is_no_drift(cluster: Cluster) -> None:
    live = LiveObjects(cluster)
    live.changed(live_of(1))
    assert live.drift(ID) is None
    live.adopted(desired_of())
    live.changed(live_of(2, "by hand"))
    assert live.drift(ID) == ("data.value",)


async def test_an_adopted_object_is_as_desired_and_a_changed_wish_is_not(cluster: Cluster) -> None:
    live = LiveObjects(cluster)
    live.changed(live_of(1))
    assert live.seen([ID], {ID: desired_of()})[ID].owner == "shop/web"
    live.adopted(desired_of())
    assert live.seen([ID], {ID: desired_of()})[ID].as_desired
    assert not live.seen([ID], {ID: desired_of("2")})[ID].as_desired
