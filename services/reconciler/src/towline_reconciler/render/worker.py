"""The jailed child that renders. `python -m towline_reconciler.render.worker`, spoken to by frames on its pipes.

It is started before it is needed, imports once, and forks for every render: the parent of the fork never looks at
hostile bytes. What must hold, render by render:

- The fork has neither the request pipe nor the answer pipe, so it can neither read the next request nor forge its
  answer; the process that holds them cannot be traced (not dumpable).
- Time, memory, files and output are limited; after the answer every process of the jail is killed and the scratch
  folder emptied, so nothing is left for the next request.

A request is a JSON frame and a snapshot frame (`towline.frames`); an answer is one JSON frame
`{documents, problems, needs}`.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from towline import forks, frames, snapshot
from towline.manifests import BadDocument
from towline_reconciler.render import documents, kustomization

Answer = dict[str, Any]
SCRATCH = Path("/tmp")  # noqa: S108 - the jail's own, in memory
_LEFT_BEHIND = (SCRATCH, Path("/dev/shm"))  # noqa: S108 - all that can be written in the jail
_GO_RESERVES = 8 << 30
"""Address space that a Go program reserves and never touches; what it touches is the cgroup's to limit."""
_YAML = (".yaml", ".yml", ".json")


def main() -> None:
    """Serve until the request pipe is closed."""
    forks.protect()
    while (request := frames.read(0)) is not None:
        tree = frames.read(0)
        if tree is None:
            return
        frames.write(1, frames.framed(_contained(request, tree)))


def _contained(request: bytes, tree: bytes) -> bytes:
    """One render in a fork; whatever it does, an answer comes back."""
    limits = orjson.loads(request)["limits"]
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        _in_the_fork(request, tree, sink, source)
    os.close(sink)
    try:
        answer = _collect(source, limits["seconds"], limits["output_bytes"])
    finally:
        os.close(source)
        forks.clean_up(_LEFT_BEHIND)
    return answer


def _in_the_fork(request: bytes, tree: bytes, sink: int, source: int) -> None:
    """Never returns."""
    code = 1
    try:
        for fd in (0, 1, source):
            os.close(fd)
        header = orjson.loads(request)
        _limit(header["limits"])
        with os.fdopen(sink, "wb") as out:
            out.write(orjson.dumps(render(header, tree)))
        code = 0
    except MemoryError:
        code = 2
    finally:
        os._exit(code)


def _limit(limits: Mapping[str, Any]) -> None:
    memory, seconds = int(limits["memory_bytes"]), int(limits["seconds"]) + 1
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory + _GO_RESERVES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _collect(source: int, seconds: float, output_bytes: int) -> bytes:
    try:
        taken = forks.collect(source, seconds, output_bytes)
    except forks.TooSlow:
        return _problem(f"the render took longer than {seconds:g} s and was ended")
    except forks.TooMuch:
        return _problem(f"the render gave more than {output_bytes >> 20} MiB and was ended")
    return taken or _problem("the render died: it crashed or needed more memory than it may have")


def _problem(message: str) -> bytes:
    return orjson.dumps({"problems": [{"message": message}]})


def render(header: Mapping[str, Any], tree: bytes) -> Answer:
    """The answer to one request, without its containment."""
    entries = snapshot.read(tree)
    files = snapshot.contents(entries)
    folder = header["path"]
    kind = header["kind"]
    with_kustomization = kustomization.file_of(folder, files)
    if kind == "kustomize" and with_kustomization is None:
        said = f"the folder holds no {kustomization.NAMES[0]}, which render: kustomize needs"
        return {"problems": [{"message": said, "file": folder}]}
    if kind == "kustomize" or (kind == "auto" and with_kustomization is not None):
        return _kustomize(header, tree, entries, files)
    return _plain(folder, files)


def _plain(folder: str, files: Mapping[str, bytes]) -> Answer:
    found: list[Answer] = []
    problems: list[Answer] = []
    for path in sorted(files):
        below = path if folder == "." else path.removeprefix(f"{folder}/")
        if not path.endswith(_YAML) or any(part.startswith(".") for part in below.split("/")):
            continue
        if folder != "." and below == path:
            continue
        try:
            found += [{"file": path, "line": each.line, "body": each.value} for each in documents.objects(files[path])]
        except BadDocument as error:
            problems.append({"message": str(error), "file": path, "line": error.line})
    return {"problems": problems} if problems else {"documents": found}


def _kustomize(
    header: Mapping[str, Any], tree: bytes, entries: list[snapshot.Entry], files: Mapping[str, bytes]
) -> Answer:
    folder = header["path"]
    seen = kustomization.survey(folder, files)
    if seen.problems:
        return {"problems": [{"message": text, "file": file, "line": line} for text, file, line in seen.problems]}
    needs = sorted(seen.needs - set(header["asked"]))
    if needs:
        return {"needs": needs}
    name = kustomization.file_of(folder, files)
    if not header["kustomize"]:
        return {"problems": [{"message": "no Kustomize is configured (reconciler.kustomize)", "file": name}]}
    top = SCRATCH / "tree"
    snapshot.unpack(tree, top, tree=snapshot.tree_id(entries))
    done = subprocess.run(
        [*header["kustomize"], folder],
        cwd=top,
        env={"PATH": "/usr/bin:/bin", "HOME": str(SCRATCH), "GOMAXPROCS": "2", "GOGC": "400"},
        preexec_fn=_with_room_to_reserve,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        return {"problems": [{"message": _said(done.stderr, top), "file": name}]}
    try:
        rendered = list(documents.objects(done.stdout))
    except BadDocument as error:
        return {"problems": [{"message": f"what Kustomize wrote cannot be applied: {error}", "file": name}]}
    return {"documents": [{"file": name, "line": None, "body": each.value} for each in rendered]}


def _with_room_to_reserve() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _said(stderr: bytes, top: Path) -> str:
    text = stderr.decode("utf-8", "replace").replace(f"{top}/", "").strip()
    lines = [line for line in text.splitlines() if line and not line.startswith("# Warning")]
    return " ".join(lines)[:1500].removeprefix("Error: ") or "Kustomize failed without a word"


if __name__ == "__main__":
    main()
