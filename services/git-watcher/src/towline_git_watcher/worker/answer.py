"""What the jailed fork answers: the merge of two commits, or the tree with its digests written. No credential near.

What must hold: the same request gives the same answer; a refusal names what the author can mend; and the landing
tree differs from the candidate in pinned fields alone, which is checked here before it is given out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from towline import snapshot
from towline.events import BuiltImage, PinnedImage, Problem
from towline.project.model import Project
from towline.project.read import FILE, BadProject, read_project
from towline.snapshot import BadSnapshot, Entry
from towline_git_watcher.worker import frames, merge, pins
from towline_git_watcher.worker.listing import File, Refused, read_listing
from towline_git_watcher.worker.repository import Missing, Repository

SCRATCH = Path("/tmp")  # noqa: S108 - the jail's own
MAX_PATHS = 1000
MAX_PATHS_BYTES = 64_000
MAX_TOLD_BYTES = 150_000
"""Of project and changed paths together: both stand in one event, which stays under the bus's record limit."""

Request = dict[str, Any]
Answer = tuple[dict[str, Any], bytes, list[bytes]]


def answer_to(request: Request, repository: Repository | None = None) -> bytes:
    repository = repository or Repository(SCRATCH)
    try:
        header, packed, objects = (candidate if request["kind"] == "candidate" else landing)(repository, request)
    except Refused as no:
        problems = [problem.model_dump(exclude_none=True) for problem in no.problems]
        header, packed, objects = {"refused": {"stage": no.stage, "reason": no.reason, "problems": problems}}, b"", []
    except Missing as gone:
        header, packed, objects = {"missing": str(gone)}, b"", []
    return frames.join((json.dumps(header).encode(), packed, frames.join(objects)))


def candidate(repository: Repository, request: Request) -> Answer:
    """Merge, read the project, set every pinned field to one constant, pack what is to be tested."""
    base, head = request["base"], request["head"]
    tree = merge.merged(repository, base, head)
    files = read_listing(repository, tree, request["files"], request["bytes"])
    contents = merge.contents(repository, files)
    project = _project(contents)
    # Also where the target's rules count: else a mistake lands, and what is refused is every change after it.
    _with(pins.rules(None, project), contents, pins.CONSTANT, project)
    rules = pins.rules(_target(repository, base), project)
    constant, _ = _with(rules, contents, pins.CONSTANT, project)
    source_tree = repository.rewritten(tree, _raw(constant)) if constant else tree
    told = project.model_dump(mode="json", exclude_defaults=True)
    author, date, title = merge.authorship(repository, head)
    header = {
        "tree": tree,
        "source_tree": source_tree,
        "project": told,
        "changed_paths": _bounded(merge.changed_paths(repository, base, tree), len(json.dumps(told))),
        "pinned": bool(constant),
        "author": author,
        "date": date,
        "title": title,
    }
    return header, _packed(files, {**contents, **constant}), repository.loose()


def landing(repository: Repository, request: Request) -> Answer:
    """Write the digests where the target's rules say, and nothing else."""
    tree = request["tree"]
    files = read_listing(repository, tree, request["files"], request["bytes"])
    contents = merge.contents(repository, files)
    project = _project(contents)
    rules = pins.rules(_target(repository, request["base"]), project)
    built = [BuiltImage.model_validate(image) for image in request["images"]]
    values = {image.name: pins.Value(image.repository, image.digest) for image in built}
    written, used = _with(rules, contents, values, project)
    constant, _ = _with(rules, {**contents, **written}, pins.CONSTANT, project)
    if (repository.rewritten(tree, _raw(constant)) if constant else tree) != request["source_tree"]:
        raise Refused("landing", "writing the digests would change more than pinned fields; nothing was landed")
    repository.written.clear()
    landing_tree = repository.rewritten(tree, _raw(written)) if written else tree
    author, date, title = merge.authorship(repository, request["head"])
    header = {
        "tree": landing_tree,
        "manifests": list(project.manifests),
        "images": [
            PinnedImage(name=image.name, reference=image.reference).model_dump()
            for image in built
            if image.name in used
        ],
        "author": author,
        "date": date,
        "title": title,
    }
    objects = [made.deflated() for made in repository.written.values()]
    return header, _packed(files, {**contents, **written}), objects


def _project(contents: dict[str, bytes]) -> Project:
    try:
        return read_project(contents[FILE]) if FILE in contents else Project()
    except BadProject as error:
        raise Refused("configuration", f"{FILE} cannot be used: {error}", error.problems) from None


def _target(repository: Repository, base: str) -> Project | None:
    """The target's own file; None when it has none, or none that can be read: a change must be able to mend it."""
    found = repository.size(f"{base}:{FILE}")
    if found is None or found[1] != "blob" or found[2] > 256 * 1024:
        return None
    try:
        return read_project(repository.content(found[0]))
    except BadProject:
        return None


def _with(
    rules: list[pins.Rule], contents: dict[str, bytes], values: pins.Values, project: Project
) -> tuple[dict[str, bytes], set[str]]:
    """(contents of the files that pins stand in, after writing; names of images written). Raises Refused."""
    own = {(image.name, pin) for image in project.images for pin in image.pins}
    written: dict[str, bytes] = {}
    used: set[str] = set()
    problems: list[Problem] = []
    for rule in rules:
        value = values if isinstance(values, pins.Value) else values.get(rule.image)
        if value is None:
            continue
        file = pins.file_of(rule.pin)
        content = written.get(file, contents.get(file))
        try:
            written[file] = pins.write(content, rule.pin, value)
            used.add(rule.image)
        except pins.BadPin as error:
            if (rule.image, rule.pin) in own:  # else the change takes the pin's place away, and its rule with it
                problems.append(error.problem)
    if problems:
        raise Refused("configuration", f"A pinned field cannot be written: {problems[0]}", tuple(problems))
    return written, used


def _bounded(paths: list[str], told: int) -> list[str] | None:
    size = len(json.dumps(paths, ensure_ascii=False).encode())  # as the event has them: a control character takes six
    few = len(paths) <= MAX_PATHS and size <= MAX_PATHS_BYTES and size + told <= MAX_TOLD_BYTES
    return paths if few else None


def _raw(files: dict[str, bytes]) -> dict[bytes, bytes]:
    return {path.encode(): content for path, content in files.items()}


def _packed(files: list[File], contents: dict[str, bytes]) -> bytes:
    try:
        return snapshot.pack(Entry(file.path, file.mode, contents[file.path]) for file in files)
    except BadSnapshot as error:
        raise Refused("configuration", f"The tree cannot be tested safely: {error}") from None
