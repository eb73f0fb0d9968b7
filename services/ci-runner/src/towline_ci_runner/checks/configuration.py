"""The `configuration` check: manifests are rendered and fit the schemas of Kubernetes. Runs in the jail.

    folder ─► Kustomize, where there is a kustomization, else the YAML files as they are ─► objects ─► schemas

A mistake is told where its author wrote it: for rendered objects the source is searched for the same value.
"""

from __future__ import annotations

import posixpath
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from towline.manifests import BadDocument, Document, objects, read
from towline_ci_runner.checks import kustomization
from towline_ci_runner.checks.found import MOST_PROBLEMS, Found
from towline_ci_runner.checks.kustomization import YAML, Survey
from towline_ci_runner.checks.schema import Schemas, dotted


@dataclass(frozen=True)
class Configuration:
    schemas: Schemas
    kustomize: str | None
    """Path of the program, as it is inside of the jail."""
    scratch: Path
    """An empty folder for this one check."""

    def check(self, files: Mapping[str, bytes], manifests: Iterable[str]) -> Found:
        found = Found()
        unknown: Counter[str] = Counter()
        for number, folder in enumerate(dict.fromkeys(posixpath.normpath(folder) for folder in manifests)):
            for file, document, sources in self._objects(folder, files, found, number):
                self._validate(file, document, sources, found, unknown)
            if found.broken or len(found.problems) >= MOST_PROBLEMS:
                break
        for kind, count in sorted(unknown.items()):
            found.notes.append(f"{count} of kind {kind[:100]} not validated: no schema is known")
        del found.problems[MOST_PROBLEMS:]
        return found

    def _objects(
        self, folder: str, files: Mapping[str, bytes], found: Found, number: int
    ) -> Iterator[tuple[str, Document, Survey | None]]:
        """(file, object, the sources that were rendered or None for a plain file)."""
        name = kustomization.file_of(folder, files)
        if name is not None:
            yield from (
                (name, document, survey) for document, survey in self._rendered(folder, name, files, found, number)
            )
            return
        paths = [path for path in sorted(files) if _is_manifest(path, folder)]
        if not paths:
            found.add(f"`manifests` names the folder {folder}, which holds no YAML file", ".towline.yaml")
        for path in paths:
            try:
                yield from ((path, document, None) for document in objects(read(files[path])))
            except BadDocument as error:
                found.add(str(error), path, error.line)

    def _rendered(
        self, folder: str, name: str, files: Mapping[str, bytes], found: Found, number: int
    ) -> Iterator[tuple[Document, Survey]]:
        survey = kustomization.survey(folder, files)
        for message, file, line in survey.problems:
            found.add(message, file, line)
        if survey.problems:
            return
        if self.kustomize is None:
            found.broken = (
                f"{name} needs Kustomize, and none is installed; put it on the PATH or set ci_runner.kustomize"
            )
            return
        top = self.scratch / str(number)
        _write(top, survey.folders, files)
        done = subprocess.run(
            [self.kustomize, "build", folder],
            cwd=top,
            env={"PATH": "/usr/bin:/bin", "HOME": str(top), "GOMAXPROCS": "2", "GOGC": "400"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            found.add(_last_words(done.stderr, top), name)
            return
        try:
            yield from ((document, survey) for document in objects(read(done.stdout)))
        except BadDocument as error:
            found.add(f"what Kustomize makes of it cannot be applied: {error}", name)

    def _validate(
        self, file: str, document: Document, survey: Survey | None, found: Found, unknown: Counter[str]
    ) -> None:
        value = document.value
        mistakes = self.schemas.mistakes(value)
        if mistakes is None:
            unknown[f"{value['apiVersion']} {value['kind']}"] += 1
            return
        for path, said in mistakes:
            message = f"{value['kind']} {value['metadata']['name'][:100]}: {dotted(path) or 'the object'}: {said}"
            where = (file, document.nearest_line(path)) if survey is None else _source_of(document, path, survey, file)
            found.add(message, *where)


def _is_manifest(path: str, folder: str) -> bool:
    below = path if folder == "." else path.removeprefix(f"{folder}/")
    if folder != "." and below == path:
        return False
    return path.endswith(YAML) and not any(part.startswith(".") for part in below.split("/"))


def _write(top: Path, folders: Sequence[str], files: Mapping[str, bytes]) -> None:
    """What Kustomize may load, which is what lies under the folders of kustomizations."""
    top.mkdir(parents=True)
    for path, content in files.items():
        if any(folder == "." or path.startswith(f"{folder}/") for folder in folders):
            target = top / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def _source_of(rendered: Document, path: Sequence[str | int], survey: Survey, file: str) -> tuple[str, int | None]:
    """File and line of the source that says what is at `path` of a rendered object; the kustomization for none."""
    kind, name = rendered.value["kind"], rendered.value["metadata"]["name"]
    wrong = rendered.at(path)
    nearest: tuple[int, str, int] | None = None
    for source, documents in survey.sources.items():
        for document in documents:
            if not _is_of(document.value, kind, name):
                continue
            line = document.line_of(path)
            if line is not None and document.at(path) == wrong:
                return source, line
            depth = next((n for n in range(len(path), -1, -1) if document.line_of(path[:n]) is not None), 0)
            if nearest is None or depth > nearest[0]:
                nearest = depth, source, document.nearest_line(path)
    return (file, None) if nearest is None else nearest[1:]


def _is_of(value: Any, kind: str, name: str) -> bool:
    """Kustomize may have put a prefix before a name and a suffix behind it."""
    if not isinstance(value, dict) or value.get("kind") != kind:
        return False
    meta = value.get("metadata")
    return isinstance(meta, dict) and isinstance(meta.get("name"), str) and meta["name"] in name


def _last_words(stderr: bytes, top: Path) -> str:
    text = stderr.decode("utf-8", "replace").replace(f"{top}/", "").replace(str(top), ".")
    lines = [line for line in text.splitlines() if line and not line.startswith("# Warning")]
    return " ".join(lines)[:1500].removeprefix("Error: ").strip() or "Kustomize failed without a word"
