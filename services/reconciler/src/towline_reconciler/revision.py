"""From the tip of a branch to objects that can be applied: fetch, render, resolve. One `Revisions` an application.

What must hold: a revision that does not render whole gives no object at all; folders beside the application's own that
its kustomizations refer to count as part of it, so a change of a base is a change of the application.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from towline.errors import BadInput
from towline.events.base import Problem
from towline.snapshot import BadSnapshot
from towline_reconciler.api.application import MOST_OBJECTS, Application
from towline_reconciler.cluster.kinds import Kinds, Resource
from towline_reconciler.manifest import Desired, ObjectId, Rendered, check_kind, desired_of, duplicates, is_plural
from towline_reconciler.render.pool import Answer, Renderer, WorkerDied
from towline_reconciler.source import Folders, Mirror, Tip
from towline_reconciler.sync import problem

_MOST_ROUNDS = 10
_RENDER_TRIES = 2


@dataclass(frozen=True, slots=True)
class Revision:
    tip: Tip
    folders: Folders


@dataclass
class Prepared:
    """What a revision asks for. With `problems` it cannot be applied; `refused` are objects that this cluster cannot
    take, the others can be applied."""

    key: str
    desired: tuple[Desired, ...] = ()
    resources: dict[ObjectId, Resource] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    refused: tuple[Problem, ...] = ()
    lasting: bool = True
    """False: the same revision may have other problems, or none, the next time."""


class Revisions:
    """Of one application; remembers which folders its last render needed."""

    def __init__(
        self,
        mirror: Mirror,
        renderer: Renderer,
        kinds: Kinds,
        *,
        most_bytes: int = 64 << 20,
        namespaces: Collection[str] = (),
    ) -> None:
        """`namespaces` may be deployed to; none: all."""
        self._mirror = mirror
        self._renderer = renderer
        self._kinds = kinds
        self._most_bytes = most_bytes
        self._namespaces = frozenset(namespaces)
        self._needs: tuple[str, ...] = ()

    async def tip(self, application: Application) -> Revision:
        """Raises DependencyDown, NoBranch or BadInput."""
        source = application.spec.source
        return Revision(*await self._mirror.look(source.branch, (_folder(source.path), *self._needs)))

    async def prepare(self, application: Application, revision: Revision) -> Prepared:
        """Raises DependencyDown when the cluster cannot say which kinds it serves."""
        folder = _folder(application.spec.source.path)
        if revision.folders.ids[0] == "-":
            said = f"the revision has no folder {folder}; mend spec.source.path or bring the folder back"
            return Prepared(revision.folders.key, problems=(Problem(message=said, file=folder),))
        try:
            answer, paths = await self._render(application, revision.tip.commit, folder)
        except (BadInput, BadSnapshot, WorkerDied) as error:
            problems = (Problem(message=str(error), file=folder, check="render"),)
            return Prepared(revision.folders.key, problems=problems, lasting=not isinstance(error, WorkerDied))
        folders = revision.folders
        if paths != folders.paths:
            folders = await self._mirror.folders(revision.tip.commit, paths)
        self._needs = paths[1:]
        if answer.problems:
            return Prepared(folders.key, problems=answer.problems)
        return await self._resolve(application, answer.rendered, folders.key)

    async def _render(self, application: Application, commit: str, folder: str) -> tuple[Answer, tuple[str, ...]]:
        paths: tuple[str, ...] = (folder, *self._needs)
        asked: set[str] = set(self._needs)
        tries = 0
        for _ in range(_MOST_ROUNDS):
            entries = await self._mirror.entries(commit, paths, self._most_bytes)
            try:
                answer = await self._renderer.render(folder, application.spec.render, entries, asked=sorted(asked))
            except WorkerDied:
                tries += 1
                if tries >= _RENDER_TRIES:
                    raise
                continue
            if not answer.needs:
                return answer, paths
            asked |= set(answer.needs)
            paths = tuple(dict.fromkeys((*paths, *answer.needs)))
        raise BadInput(f"the kustomization leads through more than {_MOST_ROUNDS} layers of other folders")

    async def _resolve(self, application: Application, rendered: Iterable[Rendered], key: str) -> Prepared:
        rendered = tuple(rendered)
        if len(rendered) > MOST_OBJECTS:
            said = f"the revision names {len(rendered)} objects, more than {MOST_OBJECTS}; split the application"
            return Prepared(key, problems=(Problem(message=said),))
        defined = dict(_defined_by(rendered))
        desired: list[Desired] = []
        problems: list[Problem] = []
        prepared = Prepared(key)
        refused: list[Problem] = []
        for each in rendered:
            try:
                check_kind(each)
            except BadInput as error:
                problems.append(_problem_of(error))
                continue
            group, kind = each.group_kind
            resource = await self._kinds.find(group, each.version, kind) or defined.get((group, each.version, kind))
            if resource is None:
                said = f"{kind} {each.body['metadata']['name']}: the cluster serves no kind {kind} of "
                said += f"{each.body['apiVersion']}; install its CRD or mend apiVersion"
                refused.append(problem(said, each.location))
                continue
            try:
                found = desired_of(
                    each,
                    namespaced=resource.namespaced,
                    application=(application.namespace, application.name),
                    namespace=application.target_namespace,
                )
                self._check_namespace(found)
            except BadInput as error:
                problems.append(_problem_of(error))
                continue
            desired.append(found)
            prepared.resources[found.id] = resource
        problems += [_problem_of(each) for each in duplicates(desired)]
        prepared.desired, prepared.problems, prepared.refused = tuple(desired), tuple(problems), tuple(refused)
        return prepared

    def _check_namespace(self, desired: Desired) -> None:
        if self._namespaces and desired.id.namespace not in self._namespaces:
            where = f"the namespace {desired.id.namespace}" if desired.id.namespace else "the whole cluster"
            allowed = ", ".join(sorted(self._namespaces))
            raise BadInput(f"{desired.id} is for {where}; this agent deploys to {allowed} only", at=desired.location)


def _defined_by(rendered: Iterable[Rendered]) -> Iterable[tuple[tuple[str, str, str], Resource]]:
    """Kinds that the revision itself defines: they are applied in the wave after their definition."""
    for each in rendered:
        if each.group_kind != ("apiextensions.k8s.io", "CustomResourceDefinition"):
            continue
        spec: Mapping[str, Any] = each.body.get("spec") or {}
        try:
            group, kind, plural = spec["group"], spec["names"]["kind"], spec["names"]["plural"]
            for version in spec["versions"] if is_plural(plural) else ():
                name = version["name"]
                yield (group, name, kind), Resource(group, name, kind, plural, spec["scope"] == "Namespaced")
        except (KeyError, TypeError):
            continue  # the API server says what is wrong with it


def _problem_of(error: BadInput) -> Problem:
    if error.at is None:
        return Problem(message=str(error), check="render")
    message = str(error).removeprefix(f"{error.at}: ")
    return Problem(message=message, file=error.at.file, line=error.at.line, check="render")


def _folder(path: str) -> str:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return "/".join(parts) or "."
