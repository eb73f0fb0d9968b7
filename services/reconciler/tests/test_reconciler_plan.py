"""The plan as a property: whatever is alive, deletions stay within the inventory and our label, or do not happen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from towline.errors import Location
from towline_reconciler.manifest import Desired, GroupKind, ObjectId
from towline_reconciler.plan import Action, Seen, is_definition, plan_for

APP = "shop/web"
IDS = tuple(
    ObjectId(group, kind, namespace, name)
    for group, kind, namespace in (
        ("", "ConfigMap", "shop"),
        ("apps", "Deployment", "shop"),
        ("", "Namespace", ""),
        ("apiextensions.k8s.io", "CustomResourceDefinition", ""),
    )
    for name in ("a", "b")
)
CONFIG_MAP = GroupKind("", "ConfigMap")


def desired_of(id: ObjectId) -> Desired:
    return Desired(id, "v1", b"{}", Location("deploy/all.yaml", 1))


ids = st.sets(st.sampled_from(IDS)).map(sorted)
seen = st.builds(Seen, st.sampled_from([None, APP, "shop/other"]), st.booleans(), st.booleans(), st.booleans())
live = st.dictionaries(st.sampled_from(IDS), seen)


@given(ids, live, ids, st.booleans(), st.sets(st.just(CONFIG_MAP)))
def test_only_what_is_ours_in_the_inventory_and_unnamed_by_git_is_deleted(
    wanted: list[ObjectId], alive: dict[ObjectId, Seen], inventory: list[ObjectId], prune: bool, unread: set[GroupKind]
) -> None:
    plan = plan_for(APP, [desired_of(id) for id in wanted], alive, inventory, prune=prune, unreadable=unread)
    for id in plan.delete:
        assert prune
        assert wanted
        assert id in inventory
        assert id not in wanted
        assert alive[id].owner == APP
        assert not alive[id].keep
        assert id.group_kind not in unread
    left = set(inventory) - set(wanted)
    assert (plan.kept is None) == (not left or bool(prune and wanted and not {id.group_kind for id in left} & unread))


@given(ids, live)
def test_every_desired_object_is_planned_exactly_once(wanted: list[ObjectId], alive: dict[ObjectId, Seen]) -> None:
    plan = plan_for(APP, [desired_of(id) for id in wanted], alive, (), prune=True)
    steps = [step for wave in plan.waves for step in wave] + list(plan.conflicts)
    assert sorted([*(step.desired.id for step in steps), *(each.id for each in plan.unchanged)]) == wanted


@given(ids, live)
def test_definitions_and_namespaces_come_before_everything_else(
    wanted: list[ObjectId], alive: dict[ObjectId, Seen]
) -> None:
    plan = plan_for(APP, [desired_of(id) for id in wanted], alive, (), prune=True)
    order = [is_definition(step.desired.id.group_kind) for wave in plan.waves for step in wave]
    assert order == sorted(order, reverse=True)
    assert all(len({is_definition(step.desired.id.group_kind) for step in wave}) == 1 for wave in plan.waves)


@given(live, ids)
def test_a_second_plan_after_everything_was_applied_has_nothing_to_do(
    alive: dict[ObjectId, Seen], wanted: list[ObjectId]
) -> None:
    after = {**alive, **{id: Seen(APP, as_desired=True) for id in wanted}}
    plan = plan_for(APP, [desired_of(id) for id in wanted], after, wanted, prune=True)
    assert (plan.waves, plan.conflicts, plan.delete) == ((), (), ())


def test_an_object_of_another_application_is_a_conflict_that_names_it() -> None:
    plan = plan_for(APP, [desired_of(IDS[0])], {IDS[0]: Seen("shop/other", as_desired=False)}, (), prune=True)
    assert plan.conflicts[0].action is Action.CONFLICT
    assert "belongs to the application shop/other" in plan.conflicts[0].reason


def test_an_empty_render_deletes_nothing_and_says_so() -> None:
    plan = plan_for(APP, [], {IDS[0]: Seen(APP, as_desired=False)}, [IDS[0]], prune=True)
    assert plan.delete == ()
    assert plan.kept is not None
    assert "empty render never deletes" in plan.kept


def test_definitions_are_deleted_last() -> None:
    inventory = [id for id in IDS if id.name == "a"]
    alive = {id: Seen(APP, as_desired=True) for id in inventory}
    plan = plan_for(APP, [desired_of(IDS[1])], alive, inventory, prune=True)
    assert [is_definition(id.group_kind) for id in plan.delete] == [False, False, True, True]
