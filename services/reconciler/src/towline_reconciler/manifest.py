"""Objects as Git names them: their identity, and the shape in which they are applied.

Rules that must hold:

- Two spellings of the same object have the same `ObjectId`, whatever version of the API they were written against, so
  that a version bump is an update and never a delete.
- What becomes part of a request's path is one segment of it: a manifest sends the agent's credential nowhere else, such
  as through the API server's proxy to a service that listens inside.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from towline.errors import BadInput, Location
from towline_reconciler.api.application import LABEL, NAMESPACE_LABEL

Json = dict[str, Any]
_GROUP_VERSION = re.compile(r"([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9]{0,62}")
_NAME = re.compile(r"(?!\.{1,2}$)[^/%?#\x00-\x20\x7f]{1,253}")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PLURAL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class GroupKind(NamedTuple):
    group: str
    kind: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind


class ObjectId(NamedTuple):
    """What an object is, without its API version. `namespace` is empty for cluster-wide kinds."""

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {where}"

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(self.group, self.kind)

    @property
    def inventory_id(self) -> str:
        return f"{self.namespace}_{self.name}_{self.group}_{self.kind}"

    @classmethod
    def from_inventory(cls, text: str) -> ObjectId:
        """Raises ValueError for text that is no inventory id. Only a name (of a role) may hold a `_` of its own."""
        namespace, *name, group, kind = text.split("_")
        if not name:
            raise ValueError("an inventory id has four parts")
        return cls(group, kind, namespace, "_".join(name))


@dataclass(frozen=True, slots=True)
class Rendered:
    """One document of a render and where it came from."""

    body: Json
    file: str
    line: int | None

    @property
    def location(self) -> Location:
        return Location(self.file, self.line)

    @property
    def version(self) -> str:
        """`apiVersion` without its group."""
        return str(self.body["apiVersion"]).rpartition("/")[2]

    @property
    def group_kind(self) -> GroupKind:
        return GroupKind(str(self.body["apiVersion"]).rpartition("/")[0], str(self.body["kind"]))


@dataclass(frozen=True, slots=True)
class Desired:
    """An object as it is to be applied. `body` is the request's JSON: equal bodies mean that Git asks for the same."""

    id: ObjectId
    version: str
    body: bytes
    location: Location

    def object(self) -> Json:
        parsed: Json = orjson.loads(self.body)
        return parsed


def check_kind(rendered: Rendered) -> None:
    """Raises BadInput, with file and line, for an apiVersion or kind that cannot be one."""
    version, kind = str(rendered.body["apiVersion"]), str(rendered.body["kind"])
    if not _GROUP_VERSION.fullmatch(version):
        said = f"apiVersion {version[:80]!r} is none; expected <group>/<version>, such as apps/v1"
        raise BadInput(said, at=rendered.location)
    if not _KIND.fullmatch(kind):
        raise BadInput(f"kind {kind[:80]!r} is none; expected letters and digits", at=rendered.location)


def is_plural(text: object) -> bool:
    """Whether a definition may serve its kind under this name."""
    return isinstance(text, str) and _PLURAL.fullmatch(text) is not None


def id_of(live: Mapping[str, Any]) -> ObjectId:
    meta = live["metadata"]
    group = live["apiVersion"].rpartition("/")[0]
    return ObjectId(group, live["kind"], meta.get("namespace") or "", meta["name"])


def owner_of(live: Mapping[str, Any]) -> str | None:
    """`<namespace>/<name>` of the Application whose labels the object carries; None when it carries none."""
    labels = live["metadata"].get("labels") or {}
    name = labels.get(LABEL)
    return f"{labels.get(NAMESPACE_LABEL, '')}/{name}" if name else None


def desired_of(rendered: Rendered, *, namespaced: bool, application: tuple[str, str], namespace: str) -> Desired:
    """The object as it is applied for `application` (namespace, name). Raises BadInput with file and line.

    `namespace` is for a namespaced object that names none.
    """
    body = _without_nulls(rendered.body)
    meta = dict(body["metadata"])
    if namespaced:
        meta["namespace"] = meta.get("namespace") or namespace
    elif meta.pop("namespace", None):
        raise BadInput(
            f"{body['kind']} {meta['name']} is cluster-wide and may not name a namespace; remove metadata.namespace",
            at=rendered.location,
        )
    _check_name(body["kind"], meta, rendered.location)
    for written_by_server in ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"):
        meta.pop(written_by_server, None)
    meta["labels"] = {**(meta.get("labels") or {}), NAMESPACE_LABEL: application[0], LABEL: application[1]}
    body = {**body, "metadata": meta}
    body.pop("status", None)
    if body["kind"] == "Secret" and body["apiVersion"] == "v1":
        body = _with_encoded_strings(body)
    object_id = ObjectId(*rendered.group_kind, meta["namespace"] if namespaced else "", meta["name"])
    return Desired(object_id, rendered.version, orjson.dumps(body, option=orjson.OPT_SORT_KEYS), rendered.location)


def _check_name(kind: str, meta: Mapping[str, Any], at: Location) -> None:
    name, namespace = meta["name"], meta.get("namespace")
    if not _NAME.fullmatch(name):
        raise BadInput(f"{kind}: metadata.name {name[:80]!r} cannot be the name of an object", at=at)
    if namespace is not None and not (isinstance(namespace, str) and _NAMESPACE.fullmatch(namespace)):
        said = f"{kind} {name}: the namespace {str(namespace)[:80]!r} is none; expected a-z, 0-9 and dashes"
        raise BadInput(said, at=at)


def duplicates(desired: Iterable[Desired]) -> list[BadInput]:
    """One error for each object that was already named before."""
    first: dict[ObjectId, Desired] = {}
    found = []
    for each in desired:
        before = first.setdefault(each.id, each)
        if before is not each:
            found.append(
                BadInput(f"{each.id} is already defined in {before.location}; remove one of the two", at=each.location)
            )
    return found


def _with_encoded_strings(secret: Json) -> Json:
    """`stringData` as `data`: the server would do the same, but what it answers could not be compared."""
    strings = secret.get("stringData")
    if not isinstance(strings, dict) or not all(isinstance(value, str) for value in strings.values()):
        return secret
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in strings.items()}
    return {
        **{key: value for key, value in secret.items() if key != "stringData"},
        "data": {**(secret.get("data") or {}), **encoded},
    }


def _without_nulls(value: Any) -> Any:
    """Null means "not given" in a manifest; sent along it would be owned and compared."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value
