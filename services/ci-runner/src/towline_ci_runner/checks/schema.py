"""Kubernetes objects against the schemas of one Kubernetes version. Runs in the jail.

What must hold: an object of a kind without a schema is told apart from a valid one; a mistake is told by its path and
by what was expected there.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs

COMMON = (
    *("v1/ConfigMap", "v1/Namespace", "v1/PersistentVolumeClaim", "v1/Secret", "v1/Service", "v1/ServiceAccount"),
    *("apps/v1/DaemonSet", "apps/v1/Deployment", "apps/v1/StatefulSet", "batch/v1/CronJob", "batch/v1/Job"),
    *("autoscaling/v2/HorizontalPodAutoscaler", "policy/v1/PodDisruptionBudget"),
    *("networking.k8s.io/v1/Ingress", "networking.k8s.io/v1/NetworkPolicy"),
    *("rbac.authorization.k8s.io/v1/Role", "rbac.authorization.k8s.io/v1/RoleBinding"),
)
"""`<apiVersion>/<kind>` of what nearly every application has: compiled before a check asks."""
_DEFINITIONS = "_definitions.json"
_URI = "file:///api/"
_WORDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "nothing",
    "number": "a number",
    "object": "a mapping",
    "string": "text",
}
_NAME = re.compile(r"[A-Za-z0-9]{1,100}")
_VERSION = re.compile(r"(?:[a-z0-9.-]{1,253}/)?v[a-z0-9]{1,30}")
MOST_ERRORS = 20
"""Of one object."""

Mistake = tuple[list[str | int], str]
"""Path in the object, and what is wrong there."""


class Schemas:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._definitions: dict[str, Any] = json.loads((folder / _DEFINITIONS).read_bytes())
        self._registry = jsonschema_rs.Registry([(f"{_URI}{_DEFINITIONS}", self._definitions)])
        self._validators: dict[str, jsonschema_rs.Draft202012Validator | None] = {}
        self._own: dict[str, Any] = {}

    def warm(self) -> None:
        for name in COMMON:
            api_version, _, kind = name.rpartition("/")
            self._validator(api_version, kind)

    def mistakes(self, value: dict[str, Any]) -> list[Mistake] | None:
        """None when there is no schema for its kind."""
        validator = self._validator(value["apiVersion"], value["kind"])
        if validator is None:
            return None
        found: list[Mistake] = []
        for error in validator.iter_errors(value):
            found += self._said(error, value)
            if len(found) >= MOST_ERRORS:
                break
        return found[:MOST_ERRORS]

    def _validator(self, api_version: str, kind: str) -> jsonschema_rs.Draft202012Validator | None:
        name = f"{api_version}/{kind}"
        if name not in self._validators:
            self._validators[name] = self._compiled(api_version, kind)
        return self._validators[name]

    def _compiled(self, api_version: str, kind: str) -> jsonschema_rs.Draft202012Validator | None:
        if not _NAME.fullmatch(kind) or not _VERSION.fullmatch(api_version):
            return None
        group, _, version = api_version.rpartition("/")
        first = f"{group.partition('.')[0]}-" if group else ""
        path = self._folder / f"{kind.lower()}-{first}{version}.json"
        if not path.is_file():
            return None
        schema = json.loads(path.read_bytes())
        # Files are named by the first label of the group alone, so a foreign `apps.example/v1` would hit `apps/v1`.
        known = schema.get("x-kubernetes-group-version-kind", ())
        if {"group": group, "version": version, "kind": kind} not in known:
            return None
        schema.pop("$id", None)
        self._own[f"{api_version}/{kind}"] = schema
        return jsonschema_rs.Draft202012Validator(schema, registry=self._registry, base_uri=f"{_URI}object.json")

    def _said(self, error: jsonschema_rs.ValidationError, value: dict[str, Any]) -> Iterator[Mistake]:
        path = list(error.instance_path)
        match error.kind:
            case jsonschema_rs.ValidationErrorKind.AdditionalProperties(unexpected=names):
                fields = self._fields(error, value)
                for name in names:
                    yield [*path, name], f"there is no such field here; {_nearest(name, fields)}"
            case jsonschema_rs.ValidationErrorKind.Type(types=types):
                wanted = " or ".join(_WORDS.get(each, each) for each in types if each != "null" or len(types) == 1)
                yield path, f"expected {wanted}, found {shown(_at(value, path))}"
            case jsonschema_rs.ValidationErrorKind.Required(property=name):
                yield path, f"the field `{name}` is missing"
            case jsonschema_rs.ValidationErrorKind.Enum(options=options):
                wanted = ", ".join(str(option) for option in options if option is not None)
                yield path, f"expected one of {wanted}; found {shown(_at(value, path))}"
            case _:
                yield path, error.message[:300]

    def _fields(self, error: jsonschema_rs.ValidationError, value: dict[str, Any]) -> list[str]:
        """The fields that are known where `error` is."""
        where = list(error.schema_path)
        schema: Any = self._own.get(f"{value['apiVersion']}/{value['kind']}")
        if "$defs" in where:
            last = len(where) - 1 - where[::-1].index("$defs")
            schema = self._definitions["$defs"].get(where[last + 1])
        return list(schema.get("properties", ())) if isinstance(schema, dict) else []


def shown(value: object) -> str:
    """A value of the object, short, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    return f"the number {value!r}"[:60]


def dotted(path: Iterable[str | int]) -> str:
    """`spec.containers[0].name`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part[:100]}"
    return text.removeprefix(".")


def _at(value: Any, path: Iterable[str | int]) -> Any:
    for part in path:
        value = value[part]
    return value


def _nearest(name: str, fields: list[str]) -> str:
    near = difflib.get_close_matches(name, fields, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"expected one of: {', '.join(sorted(fields)[:12])}{', …' if len(fields) > 12 else ''}"
