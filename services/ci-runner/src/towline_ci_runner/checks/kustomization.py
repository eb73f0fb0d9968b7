"""What a kustomization refers to, found before Kustomize runs. Runs in the jail.

What must hold: what would be fetched from elsewhere, or run, is refused with file and line and a clear word, so that
nobody has to read it out of an error about a network that is not there.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from towline.manifests import BadDocument, Document, read

NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
YAML = (".yaml", ".yml", ".json")
_REMOTE = re.compile(
    r"^[\w.+-]+://|^git@|^[\w.-]+@[\w.-]+:|\?ref=|^(www\.)?(github|gitlab|bitbucket)\.\w+[/:]|\.git(/|$|\?)"
)
_LOADED = frozenset({"resources", "bases", "components", "crds", "generators", "transformers", "validators"})
_HELM = frozenset({"helmCharts", "helmChartInflationGenerator", "helmGlobals"})
_RUNS = re.compile(r"config\.(kubernetes|k8s)\.io/function|^kind: *(ChartRenderer|HelmChartInflationGenerator)\b")


@dataclass
class Survey:
    folders: list[str] = field(default_factory=list)
    """Whose files Kustomize may load."""
    sources: dict[str, list[Document]] = field(default_factory=dict)
    """Path → what it holds, of every YAML file that is referred to, kustomizations left out."""
    problems: list[tuple[str, str, int | None]] = field(default_factory=list)
    """(message, file, line)."""


def file_of(folder: str, files: Collection[str]) -> str | None:
    """The kustomization file of a folder; None when it has none."""
    names = (posixpath.normpath(posixpath.join(folder, name)) for name in NAMES)
    return next((name for name in names if name in files), None)


def survey(root: str, files: Mapping[str, bytes]) -> Survey:
    """Walks from the kustomization of `root` through all that it refers to."""
    found, todo = Survey(), [root]
    while todo:
        folder = todo.pop()
        name = file_of(folder, files)
        if name is None or folder in found.folders:
            continue
        found.folders.append(folder)
        try:
            for key, text, line in _references(files[name]):
                todo += _follow(found, name, (key, text, line), files)
        except BadDocument as error:
            found.problems.append((str(error), name, error.line))
    return found


def _follow(found: Survey, name: str, reference: tuple[str, str, int], files: Mapping[str, bytes]) -> Iterator[str]:
    key, text, line = reference
    if key in _LOADED and "\n" not in text and _REMOTE.search(text):
        said = f"`{key}`: the remote source {text[:200]!r} is refused; keep a copy of it in the repository"
        found.problems.append((said, name, line))
        return
    if "\n" in text or len(text) > 1024:
        return
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), text))
    if path == ".." or path.startswith(("../", "/")):
        if key in _LOADED:
            found.problems.append((f"`{key}`: {text[:200]!r} points out of the repository", name, line))
    elif file_of(path, files) is not None:
        yield path
    elif path in files and path.endswith(YAML) and path not in found.sources:
        _take_source(found, path, files[path])
    elif path not in files and key in _LOADED:
        found.problems.append((f"`{key}`: the repository has no file or kustomization {path!r}", name, line))


def _take_source(found: Survey, path: str, text: bytes) -> None:
    try:
        found.sources[path] = read(text)
    except BadDocument as error:
        found.sources[path] = []
        found.problems.append((str(error), path, error.line))


def _references(text: bytes) -> Iterator[tuple[str, str, int]]:
    """(top-level key, text, line) of every plain text in a kustomization."""
    documents = read(text)
    if not documents:
        return
    node = documents[0].node
    if not isinstance(node, yaml.MappingNode):
        raise BadDocument("a kustomization must be a mapping; see the Kustomize reference", 1)
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.value in _HELM:
            raise BadDocument(f"`{key_node.value}`: Helm charts are not rendered; commit what they render to", line)
        for scalar in _scalars(value_node):
            if key_node.value in _LOADED and _RUNS.search(scalar.value):
                raise BadDocument(f"`{key_node.value}`: functions and plugins are not run", line)
            yield str(key_node.value), str(scalar.value), scalar.start_mark.line + 1


def _scalars(node: Any) -> Iterator[Any]:
    """Without recursion; `read` has bounded what aliases could make of it."""
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif isinstance(node, yaml.SequenceNode):
            todo.extend(reversed(node.value))
        elif isinstance(node, yaml.MappingNode):
            todo.extend(value for _, value in reversed(node.value))
