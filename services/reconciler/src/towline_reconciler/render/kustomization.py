"""What a kustomization refers to, found before Kustomize runs. Runs in the jail.

What must hold: nothing is fetched from elsewhere (a remote base is refused with file and line), and folders beside the
application's own are named, so that they are part of what is rendered and of what triggers a sync.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from towline.manifests import BadDocument, Loader

NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_REMOTE = re.compile(
    r"^[\w.+-]+:(//|:)|^git@|^[\w.-]+@[\w.-]+:|\?ref=|^(www\.)?(github|gitlab|bitbucket)\.\w+[/:]|\.git(/|$|\?)"
)
_LOADED = frozenset({"resources", "bases", "components", "crds", "generators", "transformers", "validators"})
_HELM = frozenset({"helmCharts", "helmChartInflationGenerator", "helmGlobals"})


@dataclass
class Survey:
    needs: set[str] = field(default_factory=set)
    """Paths inside the repository that are referred to and were not given."""
    problems: list[tuple[str, str, int | None]] = field(default_factory=list)
    """(message, file, line)."""


def file_of(folder: str, files: Collection[str]) -> str | None:
    """The kustomization file of a folder; None when it has none."""
    names = (posixpath.normpath(posixpath.join(folder, name)) for name in NAMES)
    return next((name for name in names if name in files), None)


def survey(root: str, files: Mapping[str, bytes]) -> Survey:
    """Walks from the kustomization of `root` through all that it refers to."""
    found, seen, todo = Survey(), set[str](), [root]
    folders = {"."} | {parent for path in files for parent in _parents(path)}
    while todo:
        folder = todo.pop()
        name = file_of(folder, files)
        if name is None or name in seen:
            continue
        seen.add(name)
        try:
            for key, reference, line in _references(files[name]):
                todo += _resolve(found, (name, line), (key, reference), files, folders)
        except BadDocument as error:
            found.problems.append((str(error), name, error.line))
    return found


def _resolve(
    found: Survey,
    at: tuple[str, int],
    reference: tuple[str, str],
    files: Mapping[str, bytes],
    folders: Collection[str],
) -> Iterator[str]:
    (name, line), (key, text) = at, reference
    if key in _LOADED and _REMOTE.search(text):
        said = f"the remote base {text[:200]!r} is refused; keep a copy of it in the repository"
        found.problems.append((said, name, line))
        return
    if key not in _LOADED and not text.startswith("../"):
        return
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
    if path == ".." or path.startswith(("../", "/")):
        found.problems.append((f"{text[:200]!r} points out of the repository", name, line))
    elif path in folders:
        yield path
    elif path not in files and "\n" not in path:
        found.needs.add(path)


def _references(text: bytes) -> Iterator[tuple[str, str, int]]:
    """(top-level key, text, line) of every plain text in a kustomization."""
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BadDocument(f"this is not YAML: {error.problem}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise BadDocument(f"this is not YAML: {str(error)[:300]}") from None
    if not isinstance(node, yaml.MappingNode):
        raise BadDocument("a kustomization must be a mapping", 1)
    for key_node, value_node in node.value:
        if key_node.value in _HELM:
            raise BadDocument(f"{key_node.value}: Helm charts are not rendered", key_node.start_mark.line + 1)
        for scalar in _scalars(value_node, 0):
            yield key_node.value, scalar.value, scalar.start_mark.line + 1


def _scalars(node: Any, depth: int) -> Iterator[Any]:
    if depth > 30:
        raise BadDocument("values are nested too deep for a kustomization", node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            yield from _scalars(each, depth + 1)
    elif isinstance(node, yaml.MappingNode):
        for _, each in node.value:
            yield from _scalars(each, depth + 1)


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
