"""Owned fields: which part of a live object is ours, and whether it is as Git wants it.

The API server answers a server-side apply with the set of fields that we own (`managedFields`, `fieldsV1`) and with
their values as it keeps them: quantities normalised, defaults filled in. That answer, cut down to the owned fields,
is the *reference*. A live object whose owned fields equal the reference has no drift, whatever else it holds.

A field set is nested: `f:name` is a member, `k:{"name":"a"}` a list item by its key, `v:"x"` an item of a set, `.` the
member itself; an empty set below a name means that the whole value is owned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

MANAGER = "towline"
FieldSet = Mapping[str, Any]
Flat = dict[str, Any]
_ABSENT = object()
_NOT_MANAGED = frozenset({"apiVersion", "kind"})


def owned_fields(live: Mapping[str, Any], manager: str = MANAGER) -> FieldSet:
    """The field set that `manager` applied; empty when it owns nothing."""
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            fields: FieldSet = entry.get("fieldsV1") or {}
            return fields
    return {}


def project(value: Any, fields: FieldSet) -> Any:
    """`value` cut down to `fields`; what is owned but absent is left out."""
    if not fields:
        return value
    if isinstance(value, dict):
        cut = {}
        for key, below in fields.items():
            name = key[2:]
            if key[:2] == "f:" and name in value:
                cut[name] = project(value[name], below)
        return cut
    if isinstance(value, list):
        return [project(item, below) for below, item in _items(value, fields)]
    return value


def _items(items: list[Any], fields: FieldSet) -> Iterable[tuple[FieldSet, Any]]:
    """The owned items of a list, in the order of the field set: the order in the list is not ours."""
    for key, below in fields.items():
        if key[:2] == "k:":
            wanted = orjson.loads(key[2:])
            for item in items:
                if isinstance(item, dict) and all(item.get(name, _ABSENT) == want for name, want in wanted.items()):
                    yield below, item
                    break
        elif key[:2] == "v:":
            wanted = orjson.loads(key[2:])
            if wanted in items:
                yield {}, wanted
        elif key[:2] == "i:":
            index = int(key[2:])
            if index < len(items):
                yield below, items[index]


def reference_of(live: Mapping[str, Any], fields: FieldSet) -> bytes:
    """The owned part of a live object as canonical bytes; equal bytes mean equal owned fields."""
    return orjson.dumps(project(live, fields), option=orjson.OPT_SORT_KEYS)


def differing(reference: bytes, live: Mapping[str, Any], fields: FieldSet) -> tuple[str, ...]:
    """Paths of the owned fields whose value is not the reference's; values are never told."""
    wanted, found = flatten(orjson.loads(reference)), flatten(project(live, fields))
    return tuple(
        sorted(path for path in wanted.keys() | found.keys() if wanted.get(path, _ABSENT) != found.get(path, _ABSENT))
    )


def flatten(value: Any, path: str = "") -> Flat:
    """Leaves by dotted path; a list item with a `name` goes by it, so that a path reads well."""
    flat: Flat = {}
    if isinstance(value, dict) and value:
        for key, each in value.items():
            flat |= flatten(each, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and value:
        for index, each in enumerate(value):
            label = each.get("name", index) if isinstance(each, dict) else index
            flat |= flatten(each, f"{path}[{label}]")
    else:
        flat[path] = value
    return flat


def is_as_desired(desired: Mapping[str, Any], live: Mapping[str, Any], fields: FieldSet) -> bool:
    """True when we own all that `desired` names, and nothing more, and every value is what it says.

    Used where no answer of an apply is at hand (after a restart). A value that the server keeps in another spelling
    gives False: then one apply that changes nothing brings the answer.
    """
    wanted = {key: value for key, value in desired.items() if key not in _NOT_MANAGED}
    meta = {key: value for key, value in desired["metadata"].items() if key not in {"name", "namespace"}}
    wanted["metadata"] = meta
    if not meta:
        del wanted["metadata"]
    return _covers(wanted, live, fields)


def _covers(wanted: Any, live: Any, fields: FieldSet) -> bool:
    if not fields:
        return bool(wanted == live)
    below = {key: each for key, each in fields.items() if key != "."}
    if isinstance(wanted, dict) and isinstance(live, dict):
        if {f"f:{key}" for key in wanted} != set(below):
            return False
        return all(key in live and _covers(value, live[key], below[f"f:{key}"]) for key, value in wanted.items())
    if isinstance(wanted, list) and isinstance(live, list):
        ours, theirs = list(_items(wanted, below)), list(_items(live, below))
        if len(ours) != len(wanted) or len(ours) != len(below) or len(theirs) != len(below):
            return False
        return all(_covers(mine, other, each) for (each, mine), (_, other) in zip(ours, theirs, strict=True))
    return False


def last_writer(live: Mapping[str, Any], paths: Iterable[str]) -> str | None:
    """Who else manages one of `paths` (dotted, as `differing` gives them), the latest first; None when nobody does."""
    wanted = {path.split("[")[0].split(".")[0:2][-1] for path in paths} | {path.split(".")[0] for path in paths}
    others = [
        entry
        for entry in live["metadata"].get("managedFields") or ()
        if entry.get("manager") != MANAGER and not entry.get("subresource")
    ]
    others = [entry for entry in others if any(f"f:{name}" in _names(entry.get("fieldsV1") or {}) for name in wanted)]
    if not others:
        return None
    latest = max(others, key=lambda entry: entry.get("time") or "")
    return f"{latest.get('manager')} ({latest.get('operation')})"


def _names(fields: FieldSet) -> set[str]:
    return set(fields) | {name for below in fields.values() if isinstance(below, dict) for name in below}


def loads(reference: bytes) -> Any:
    """The owned part of an object, as it was made by `reference_of`."""
    return orjson.loads(reference)
