"""The jailed child that merges: `python -m towline_git_watcher.worker.child`, spoken to by frames.

It is started before it is needed, imports once, and forks for every request; the process that holds the pipes never
looks at hostile bytes. What must hold, request by request:

- The fork has neither the request pipe nor the answer pipe, and the process that holds them cannot be traced.
- Time, memory, files and output are limited; afterwards every process of the jail is killed and its scratch folder
  emptied, so that nothing of one change is left when the next one comes.
- It sees the objects of its one repository, read-only; what Git writes goes to the scratch folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
from pathlib import Path
from typing import Any

from towline import forks
from towline.frames import framed, read, write
from towline_git_watcher.worker import frames
from towline_git_watcher.worker.answer import answer_to

SCRATCH = Path("/tmp")  # noqa: S108 - the jail's own


def main() -> None:
    """Serve until the request pipe is closed."""
    forks.protect()
    gc.freeze()
    write(1, framed(frames.HELLO))
    while (request := read(0)) is not None:
        write(1, _contained(json.loads(request)))


def _contained(request: dict[str, Any]) -> bytes:
    """One request in a fork; whatever it does, an answer comes back."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        _in_the_fork(request, sink, source)
    os.close(sink)
    try:
        return _collect(source, float(request["seconds"]), int(request["output_bytes"]))
    finally:
        os.close(source)
        forks.clean_up((SCRATCH,))


def _in_the_fork(request: dict[str, Any], sink: int, source: int) -> None:
    """Never returns."""
    code = 1
    try:
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(source)
        seconds = int(float(request["seconds"])) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(request["output_bytes"]),) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        write(sink, answer_to(request))
        code = 0
    finally:
        os._exit(code)


def _collect(source: int, seconds: float, output_bytes: int) -> bytes:
    try:
        taken = forks.collect(source, seconds, output_bytes)
    except forks.TooSlow:
        return _refused(f"the merge took longer than {seconds:g} s and was ended")
    except forks.TooMuch:
        return _refused(f"the merge gave more than {output_bytes >> 20} MiB and was ended")
    with contextlib.suppress(ValueError):
        if len(frames.split(taken)) == 3:
            return taken
    return _refused("the merge died: it crashed or needed more memory than it may have")


def _refused(reason: str) -> bytes:
    said = json.dumps({"refused": {"stage": "merge", "reason": reason, "problems": []}}).encode()
    return frames.join((said, b"", b""))


if __name__ == "__main__":
    main()
