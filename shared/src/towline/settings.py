"""Settings from one YAML file and the environment, refused as a whole when one key is wrong.

The environment wins over the file: `TOWLINE_GIT_WATCHER__POLL=10s` is `git_watcher: {poll: 10s}`. An unknown key is
refused with the nearest valid name; values that are secret are given by file reference and never shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from towline.errors import BadInput, Location

PREFIX = "TOWLINE_"
M = TypeVar("M", bound=BaseModel)


def load(model: type[M], file: Path | None, environ: Mapping[str, str]) -> M:
    """The settings; raises BadInput that lists every wrong key, where it stands and what was expected."""
    values: dict[str, Any] = {}
    lines: dict[tuple[str, ...], int] = {}
    if file is not None:
        values, lines = _read(file)
    for path, value in _from_environment(environ):
        _put(values, path, value)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        said = [
            _sentence(model, detail, lines, file) for detail in error.errors(include_input=False, include_url=False)
        ]
        raise BadInput("\n".join(said)) from None


def _read(file: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    try:
        node = yaml.compose(file.read_text(), Loader=yaml.SafeLoader)
        values = yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise BadInput(
            "there is no such settings file; write one or leave --config away", at=Location(str(file))
        ) from None
    except OSError as error:
        raise BadInput(f"cannot be read: {error.strerror}", at=Location(str(file))) from None
    except UnicodeDecodeError:
        raise BadInput("not UTF-8 text; save it as UTF-8", at=Location(str(file))) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = Location(str(file), mark.line + 1, mark.column + 1) if mark else Location(str(file))
        raise BadInput(f"not YAML: {_problem(error)}", at=at) from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise BadInput(f"expected keys and values, found a {type(values).__name__}", at=Location(str(file), 1))
    return values, dict(_lines(node, ()))


def _lines(node: yaml.Node | None, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            yield here, key.start_mark.line + 1
            yield from _lines(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            here = (*path, str(index))
            yield here, value.start_mark.line + 1
            yield from _lines(value, here)


def _from_environment(environ: Mapping[str, str]) -> Iterator[tuple[list[str], Any]]:
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX):
            try:
                yield name.removeprefix(PREFIX).lower().split("__"), yaml.safe_load(value)
            except yaml.YAMLError as error:  # its own text would quote the value
                raise BadInput(f"{name} is not YAML: {_problem(error)}; put the value in quotes") from None


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise BadInput(f"{PREFIX}{'__'.join(path).upper()} reaches into {part}, which is not a section")
    values[path[-1]] = value


def _sentence(
    model: type[BaseModel], detail: ErrorDetails, lines: Mapping[tuple[str, ...], int], file: Path | None
) -> str:
    loc = tuple(str(part) for part in detail["loc"])
    at = Location(str(file), lines[loc]) if file is not None and loc in lines else None
    where = ".".join(loc)
    if detail["type"] == "extra_forbidden":
        names = _valid_names(model, loc[:-1])
        near = difflib.get_close_matches(loc[-1], names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of: {', '.join(sorted(names))}"
        return str(BadInput(f"unknown setting {where}; {hint}", at=at))
    return str(BadInput(f"{where}: {detail['msg']}", at=at))


def _valid_names(model: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    for part in path:
        if part.isdigit():
            continue
        inner = _model_in(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
