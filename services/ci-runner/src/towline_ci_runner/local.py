"""`towline validate`: what the server checks, on a person's own work tree.

The same programs, in children with an empty environment instead of a jail: the tree is its owner's, and this runs
without root and without bubblewrap.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

from towline import snapshot
from towline.errors import BadInput
from towline.events import Problem
from towline.project.model import Project
from towline.project.read import FILE, BadProject, read_project
from towline_ci_runner.checks.lint_files import OWN
from towline_ci_runner.checks.process import MODULES, Worker, WorkerBroken, no_group, plain
from towline_ci_runner.checks.run import parts_of, request_of, verdict_of
from towline_ci_runner.settings import CiRunnerSettings

MOST_BYTES = 64 << 20
MOST_FILE_BYTES = 1 << 20
LEFT_OUT = frozenset({"node_modules", "target", "venv", "__pycache__"})


def check_folder(folder: Path, settings: CiRunnerSettings | None = None) -> list[Problem]:
    """Every problem of the tree: `.towline.yaml`, manifests, lint. Raises BadInput when it cannot be checked."""
    try:
        project = read_project((folder / FILE).read_bytes()) if (folder / FILE).is_file() else Project()
    except BadProject as error:
        return list(error.problems)
    try:
        entries = list(_entries(folder, project.manifests))
        archive = snapshot.pack(entries)
    except snapshot.BadSnapshot as error:
        return [Problem(message=str(error), check="configuration")]
    tree = snapshot.tree_id(entries)
    return asyncio.run(_checked(tree, archive, project.manifests, settings or CiRunnerSettings()))


async def _checked(tree: str, archive: bytes, manifests: tuple[str, ...], settings: CiRunnerSettings) -> list[Problem]:
    request = request_of(tree, manifests, settings)

    async def ask(check: str) -> list[Problem]:
        try:
            worker = await Worker.start(plain(check, parts_of(settings)), no_group(), {"PATH": os.defpath})
        except WorkerBroken as error:
            raise BadInput(f"the {check} check cannot run here: {error}") from None
        try:
            said = verdict_of(check, await worker.ask(request, archive))
        except WorkerBroken as error:
            raise BadInput(f"the {check} check cannot run here: {error}") from None
        finally:
            await worker.end()
        if said["verdict"] == "error":
            return [Problem(message=str(said["reason"]), check=check)]
        return list(said["problems"])

    return [problem for found in await asyncio.gather(*map(ask, MODULES)) for problem in found]


def _entries(folder: Path, manifests: tuple[str, ...]) -> Iterator[snapshot.Entry]:
    """What the checks read. A kustomization may refer to any folder, so with manifests the whole tree goes along."""
    left = MOST_BYTES
    top = folder.resolve()
    own = (top / name for name in (FILE, *OWN))
    for path in sorted({*own, *(_below(top) if manifests else ())}):
        inside = path.resolve()
        if not inside.is_relative_to(top) or not inside.is_file() or inside.stat().st_size > MOST_FILE_BYTES:
            continue
        content = inside.read_bytes()
        left -= len(content)
        if left < 0:
            raise BadInput(f"{folder} holds more than {MOST_BYTES >> 20} MiB of files; give the top of a work tree")
        yield snapshot.Entry(path.relative_to(top).as_posix(), snapshot.FILE, content)


def _below(top: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in LEFT_OUT]
        yield from (Path(folder, name) for name in names)
