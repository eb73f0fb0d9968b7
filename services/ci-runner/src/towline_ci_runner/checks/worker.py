"""The jailed process that checks: `python -m towline_ci_runner.checks.worker <check> <options>`.

It is started before it is needed, imports once, and forks for every request, so that hostile bytes only ever meet a
copy of it. What must hold, request by request:

- The fork has neither the request pipe nor the answer pipe; the process that holds them cannot be traced.
- Time, memory, files and output are limited; afterwards its processes are killed and its scratch folder is emptied.

A request is a JSON frame and a snapshot frame, an answer one JSON frame: a `Found`, or `{"died": why}`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from towline import forks, frames, snapshot
from towline_ci_runner.checks.found import Found

Check = Callable[[Mapping[str, bytes], list[str], Path], Found]
Prepare = Callable[[], None]
_OUTPUT_BYTES = 1 << 20
_FILE_BYTES = 64 << 20


def main(name: str, options: Mapping[str, Any]) -> None:
    """Serve until the request pipe is closed."""
    forks.protect()
    check, prepare = _load(name, options)
    gc.freeze()  # what was imported is shared by all forks and written by none
    prepare()
    frames.write(1, frames.framed(b"ready"))
    while (request := frames.read(0)) is not None:
        archive = frames.read(0)
        if archive is None:
            return
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            answer = _contained(check, json.loads(request), archive, Path(scratch))
        _clean_up(jailed=bool(options.get("jailed")))
        frames.write(1, frames.framed(answer))
        prepare()


def _load(name: str, options: Mapping[str, Any]) -> tuple[Check, Prepare]:
    """The check, and what is to be done before each request."""
    if name == "lint":
        from towline_ci_runner.checks.lint import Lint

        lint = Lint()
        return lint, lint.prepare
    from towline_ci_runner.checks.configuration import Configuration
    from towline_ci_runner.checks.schema import Schemas

    schemas = Schemas(Path(options["schemas"]))
    if options.get("warm"):
        schemas.warm()
    kustomize = options.get("kustomize")

    def configuration(files: Mapping[str, bytes], manifests: list[str], scratch: Path) -> Found:
        return Configuration(schemas, kustomize, scratch).check(files, manifests)

    return configuration, lambda: None


def _contained(check: Check, request: Mapping[str, Any], archive: bytes, scratch: Path) -> bytes:
    """One check in a fork; whatever it does, an answer comes back."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        _in_the_fork(check, request, archive, scratch, sink)
    os.close(sink)
    try:
        return _collect(source, request["seconds"])
    finally:
        os.close(source)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _in_the_fork(check: Check, request: Mapping[str, Any], archive: bytes, scratch: Path, sink: int) -> None:
    """Never returns."""
    try:
        os.setpgid(0, 0)
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        _limit(request)
        os.write(sink, b" ")  # JSON knows blanks: whoever reads nothing at all knows that the limits were too low
        _answer(sink, json.dumps(asdict(_checked(check, request, archive, scratch))).encode())
    except snapshot.BadSnapshot as error:
        _answer(sink, json.dumps(asdict(Found(problems=[{"message": str(error)[:600]}]))).encode())
    except (MemoryError, RecursionError):
        _answer(sink, _died("the check needed more memory than it may have"))
    finally:
        os._exit(0)


def _checked(check: Check, request: Mapping[str, Any], archive: bytes, scratch: Path) -> Found:
    entries = snapshot.read(archive)
    found = snapshot.tree_id(entries)
    if found != request["tree"]:
        raise snapshot.BadSnapshot(f"the snapshot is of tree {found}, expected {request['tree']}")
    return check(snapshot.contents(entries), request["manifests"], scratch)


def _answer(sink: int, answer: bytes) -> None:
    with contextlib.suppress(OSError):
        frames.write(sink, answer)


def _limit(request: Mapping[str, Any]) -> None:
    memory, seconds = int(request["memory_bytes"]), int(request["seconds"]) + 1
    # Not the address space: Kustomize, as every Go program, reserves far more of it than it uses.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _collect(source: int, seconds: float) -> bytes:
    try:
        taken = forks.collect(source, seconds, _OUTPUT_BYTES)
    except forks.TooSlow:
        return _died(f"the check took longer than {seconds:g} s and was ended")
    except forks.TooMuch:
        return _died("the check said more than it may and was ended")
    return taken if taken.strip() else _died("the check died: it crashed, or needed more memory than it may have")


def _died(why: str) -> bytes:
    return json.dumps({"died": why}).encode()


def _clean_up(*, jailed: bool) -> None:
    """In a jail, where process 1 is bubblewrap, nothing but this process survives a request."""
    if jailed and Path("/proc/1/comm").read_text() == "bwrap\n" and os.getpid() != 1:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
    for left in Path(tempfile.gettempdir()).iterdir() if jailed else ():
        shutil.rmtree(left, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
