"""Owned fields: what others add is never drift, what anybody changes of ours always is."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from towline_reconciler import projection
from towline_reconciler.projection import MANAGER

scalars = st.one_of(st.integers(-(1 << 63), (1 << 63) - 1), st.booleans(), st.text(max_size=5))
names = st.sampled_from(["a", "b", "c", "d"])
bodies = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.dictionaries(names, inner, max_size=3),
        st.lists(st.tuples(names, inner), max_size=3, unique_by=lambda each: each[0]).map(
            lambda items: [{"name": name, "value": value} for name, value in items]
        ),
    ),
    max_leaves=12,
)
specs = st.dictionaries(names, bodies, min_size=1, max_size=3)


def fields_of(value: Any) -> dict[str, Any]:
    """As the API server describes what was applied: members, and list items by their key."""
    if isinstance(value, dict):
        return {f"f:{key}": fields_of(each) for key, each in value.items()}
    if isinstance(value, list):
        return {
            f'k:{{"name":"{each["name"]}"}}': {".": {}, **fields_of(each)} for each in value if isinstance(each, dict)
        }
    return {}


def live_of(spec: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    entry = {"manager": MANAGER, "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:spec": fields}}
    return {
        "apiVersion": "v1",
        "kind": "Thing",
        "metadata": {"name": "x", "managedFields": [entry]},
        "spec": copy.deepcopy(spec),
    }


def grown(value: Any) -> Any:
    """With fields and list items of others, everywhere."""
    if isinstance(value, dict):
        return {**{key: grown(each) for key, each in value.items()}, "of-others": 1}
    if isinstance(value, list):
        return [{"name": "of-others", "value": 2}, *(grown(each) for each in value)]
    return value


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [each for key, below in value.items() for each in leaves(below, (*path, key))]
    if isinstance(value, list):
        return [each for index, below in enumerate(value) for each in leaves(below, (*path, index))]
    return [path]


def filled(value: Any) -> bool:
    """No empty container: an empty one owns itself whole, so anything in it is ours."""
    if isinstance(value, dict | list):
        return bool(value) and all(map(filled, value.values() if isinstance(value, dict) else value))
    return True


@given(specs.filter(filled))
def test_what_others_add_is_no_drift(spec: dict[str, Any]) -> None:
    live = live_of(spec, fields_of(spec))
    fields = projection.owned_fields(live)
    reference = projection.reference_of(live, fields)
    assert projection.differing(reference, {**live, "spec": grown(spec)}, fields) == ()


@given(specs.filter(filled), st.data())
def test_every_change_of_an_owned_field_is_drift_and_is_named(spec: dict[str, Any], data: st.DataObject) -> None:
    live = live_of(spec, fields_of(spec))
    fields = projection.owned_fields(live)
    reference = projection.reference_of(live, fields)
    path = data.draw(st.sampled_from(leaves(spec)))
    changed = copy.deepcopy(live)
    holder = changed["spec"]
    for part in path[:-1]:
        holder = holder[part]
    if data.draw(st.booleans()) and isinstance(holder, dict):
        del holder[path[-1]]
    else:
        holder[path[-1]] = "changed by hand!"
    assert projection.differing(reference, changed, fields)


@given(specs.filter(filled))
def test_what_was_applied_is_as_desired_and_anything_less_or_more_is_not(spec: dict[str, Any]) -> None:
    desired = {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": spec}
    live = live_of(spec, fields_of(spec))
    owned = projection.loads(projection.reference_of(live, projection.owned_fields(live)))
    assert projection.is_as_desired(desired, owned, projection.owned_fields(live))
    more = {**spec, "e": 1}
    assert not projection.is_as_desired({**desired, "spec": more}, owned, projection.owned_fields(live))
    less = dict(list(spec.items())[1:])
    assert not projection.is_as_desired({**desired, "spec": less}, owned, projection.owned_fields(live))


def test_the_writer_who_took_a_field_is_named() -> None:
    live = live_of({"a": 1}, {"f:a": {}})
    live["metadata"]["managedFields"].append(
        {
            "manager": "kubectl",
            "operation": "Update",
            "fieldsV1": {"f:spec": {"f:a": {}}},
            "time": "2026-01-01T00:00:00Z",
        }
    )
    assert projection.last_writer(live, ["spec.a"]) == "kubectl (Update)"


def test_nothing_is_owned_where_we_never_applied() -> None:
    assert projection.owned_fields({"metadata": {"name": "x"}}) == {}
