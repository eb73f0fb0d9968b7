"""Reads `.towline.yaml`: bytes of a hostile repository become a Project, or problems that their author can mend.

Owns the file's own shape (jobs and images by name, `run` as one string or a list) and what one value cannot say
alone: needs that exist and end, fields pinned once, a size that events can carry. All problems are told at once,
each with its line. Imports PyYAML and pydantic only, because a jailed child without credentials reads the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from towline.errors import BadInput, Location
from towline.events.base import Problem
from towline.project.model import MOST_IMAGES, MOST_JOBS, ImageSpec, Job, KustomizePin, Project, YamlPin
from towline.project.order import cycle_in
from towline.project.tree import Node, read_tree

FILE = ".towline.yaml"
MAX_RESOLVED_BYTES = 128 * 1024
"""Of the resolved project as JSON: a candidate's event carries it and stays under the bus's record limit."""
MAX_PROBLEMS = 50

M = TypeVar("M", bound=BaseModel)
Loc = tuple[int | str, ...]


class BadProject(BadInput):
    """The file is wrong. `problems` names each place, at most 50."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        first = problems[0]
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        at = Location(first.file, first.line) if first.file else None
        super().__init__(f"{first.message}{more}", at=at)
        self.problems = problems


def read_project(data: bytes, file: str = FILE) -> Project:
    """The project that the file's bytes ask for; an empty file is the default. Raises BadProject."""
    try:
        root = read_tree(data, file)
    except BadInput as error:
        line = error.at.line if error.at else None
        message = _shown(str(error).removeprefix(f"{error.at}: "))
        raise BadProject((Problem(message=message, file=file, line=line, check="configuration"),)) from None
    reading = _Reading(file)
    project = reading.project(root) if root and root.kind != "nothing" else Project()
    if project is None or reading.problems:
        in_order = sorted(reading.problems, key=lambda problem: problem.line or 0)
        raise BadProject(tuple(in_order[:MAX_PROBLEMS]))
    return project


class _Reading:
    """One pass over one file; collects problems instead of stopping at the first."""

    def __init__(self, file: str) -> None:
        self.problems: list[Problem] = []
        self._file = file

    def project(self, root: Node) -> Project | None:
        if not isinstance(root.value, dict):
            self._problem(root.line, f"expected a mapping with {_keys(Project)}; found {root.kind}")
            return None
        top = dict(root.value)
        jobs = self._named(top.pop("jobs", None), "jobs", Job, self._job, MOST_JOBS)
        images = self._named(top.pop("images", None), "images", ImageSpec, self._image, MOST_IMAGES)
        data = {key: _number(key, node) for key, node in top.items()}
        project = self._validated(Project, {**data, "jobs": (), "images": ()}, root)
        self._check_needs(jobs, root)
        self._check_pins(images)
        if project is None or self.problems:
            return None
        whole = project.model_copy(update={"jobs": tuple(jobs.values()), "images": tuple(images.values())})
        size = len(whole.model_dump_json().encode())
        if size > MAX_RESOLVED_BYTES:
            self._problem(
                root.line,
                f"the file asks for more than {MAX_RESOLVED_BYTES} bytes once resolved ({size}); "
                "move long scripts into files of the repository",
            )
        return whole

    def _named(self, node: Node | None, key: str, model: type[M], read: Any, most: int) -> dict[str, M]:
        """The values of a mapping name → body, in the order of the file; none of them where they are too many."""
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self._problem(node.line, f"`{key}`: expected a mapping from names to {_keys(model)}; found {node.kind}")
            return {}
        if len(node.value) > most:
            self._problem(node.line, f"`{key}`: {len(node.value)} stand here; at most {most} are taken")
            return {}
        found: dict[str, M] = {}
        for name, body in node.value.items():
            line = node.lines[name]
            if not isinstance(body.value, dict):
                self._problem(line, f"`{key}.{name}`: expected a mapping with {_keys(model)}; found {body.kind}")
            elif "name" in body.value:
                self._problem(body.lines["name"], f"`{key}.{name}.name`: the name is the key under `{key}`; remove it")
            elif value := read(name, body, line):
                found[name] = value
        return found

    def _job(self, name: str, body: Node, line: int) -> Job | None:
        data = body.data()
        if isinstance(data.get("run"), str):
            data["run"] = [data["run"]]
        return self._validated(Job, {**data, "name": name}, body, f"jobs.{name}", line)

    def _image(self, name: str, body: Node, line: int) -> ImageSpec | None:
        data = body.data()
        pins = body.value.get("pins") if isinstance(body.value, dict) else None
        read_pins: list[object] = []
        if pins is not None and isinstance(pins.value, list):
            read_pins = [self._pin(pin, f"images.{name}.pins.{index}") for index, pin in enumerate(pins.value)]
            data["pins"] = [pin for pin in read_pins if pin is not None]
        image = self._validated(ImageSpec, {**data, "name": name}, body, f"images.{name}", line)
        return None if None in read_pins else image

    def _pin(self, node: Node, path: str) -> KustomizePin | YamlPin | None:
        keys = node.value if isinstance(node.value, dict) else {}
        if ("kustomize" in keys) == ("yaml" in keys):
            self._problem(node.line, f"`{path}`: expected `kustomize` and `image`, or `yaml` and `path`")
            return None
        if "kustomize" in keys:
            return self._validated(KustomizePin, node.data(), node, path)
        return self._validated(YamlPin, node.data(), node, path)

    def _validated(self, model: type[M], data: Any, node: Node, path: str = "", line: int | None = None) -> M | None:
        """`line` is where to point when the place itself has none: that of the key which names `node`."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            found = error.errors(include_url=False)
            inner = {each["loc"][:-1] for each in found}
            for each in found:
                if each["type"] == "too_short" and each["loc"] in inner:
                    continue  # its entries are wrong, and that is told
                where, kind = _place(node, each["loc"], line or node.line)
                inside = () if each["loc"] == ("name",) else each["loc"]
                dotted = ".".join(str(part) for part in (path, *inside) if part not in {"", "[key]"})
                self._problem(where, f"`{dotted}`: {_said(each, model, kind)}")
            return None

    def _check_needs(self, jobs: Mapping[str, Job], root: Node) -> None:
        declared = root.value.get("jobs") if isinstance(root.value, dict) else None
        names = list(declared.value) if declared and isinstance(declared.value, dict) else []
        for job in jobs.values():
            for index, need in enumerate(job.needs):
                line, _ = _place(root, ("jobs", job.name, "needs", index), root.line)
                if need not in names:
                    self._problem(line, f"`jobs.{job.name}.needs`: no job is named `{need}`{_nearest(need, names)}")
                elif need in job.needs[:index]:
                    self._problem(line, f"`jobs.{job.name}.needs`: `{need}` stands twice")
        if cycle := cycle_in({name: job.needs for name, job in jobs.items()}):
            line, _ = _place(root, ("jobs", cycle[0], "needs"), root.line)
            self._problem(line, f"`jobs`: the needs go in a circle: {' → '.join(cycle)}; remove one of them")

    def _check_pins(self, images: Mapping[str, ImageSpec]) -> None:
        seen: dict[object, str] = {}
        for image in images.values():
            for pin in image.pins:
                if pin in seen:
                    self._problem(None, f"`images.{image.name}.pins`: `images.{seen[pin]}` writes the same field")
                seen[pin] = image.name

    def _problem(self, line: int | None, message: str) -> None:
        self.problems.append(Problem(message=_shown(message), file=self._file, line=line, check="configuration"))


def _shown(message: str) -> str:
    """What the file's author chose to write must not steer a terminal, nor fill a screen."""
    return "".join(char if char.isprintable() else "?" for char in message[:600])


def _number(key: str, node: Node) -> Any:
    """`version` is the one number of the file; everything else is text, lists and mappings."""
    if key == "version" and node.plain and node.value == "1":
        return 1
    return node.data()


def _place(node: Node, loc: Loc, line: int) -> tuple[int, str]:
    """The line of the deepest part of `loc` that stands in the file, and what stands at `loc`."""
    for part in loc:
        if isinstance(node.value, dict) and part in node.value:
            line, node = node.lines[str(part)], node.value[str(part)]
        elif isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.line
        else:
            break
    return line, node.kind


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(f"`{name}`" for name in model.model_fields if name != "name" or model is Project)


def _nearest(word: str, known: Iterable[str]) -> str:
    options = list(known)
    match = difflib.get_close_matches(word[:100], options, n=1, cutoff=0.5)
    if match:
        return f"; did you mean `{match[0]}`?"
    return f"; expected one of {', '.join(f'`{name}`' for name in options[:20])}" if options else ""


_EXPECTED = {
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "literal_error": "expected 1, the version of this format",
    "too_short": "expected at least one entry",
    "string_too_short": "expected text that is not empty",
}


def _said(error: Any, model: type[BaseModel], found: str) -> str:
    """pydantic's finding in the words of the file."""
    kind, name = error["type"], str(error["loc"][-1])
    if kind == "extra_forbidden":
        owner = _model_at(model, error["loc"][:-1])
        return f"unknown key{_nearest(name, [key for key in owner.model_fields if key != 'name'])}"
    if kind == "missing":
        return f"is missing; {_description(model, error['loc'])}"
    if kind == "string_pattern_mismatch":
        return "expected a name: " + (
            "letters, digits and underscores, no digit first"
            if "[key]" in error["loc"]
            else "lower-case letters, digits and dashes, at most 63, no dash at the ends"
        )
    if kind == "string_too_long":
        return f"expected at most {error['ctx']['max_length']} characters"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    expected = _EXPECTED.get(kind, error["msg"])
    return f"{expected}; found {found}" if kind.endswith("_type") else expected


def _description(model: type[BaseModel], loc: Loc) -> str:
    field = _model_at(model, loc[:-1]).model_fields.get(str(loc[-1]))
    return f"expected: {field.description}" if field and field.description else "it is required"


def _model_at(model: type[BaseModel], loc: Loc) -> type[BaseModel]:
    """The model that holds the key after `loc`; only models directly in fields occur."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return model
