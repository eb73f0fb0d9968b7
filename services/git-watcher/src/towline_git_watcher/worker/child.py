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
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from towline.frames import framed, read, write
from towline_git_watcher.worker import frames
from towline_git_watcher.worker.answer import answer_to

SCRATCH = Path("/tmp")  # noqa: S108 - the jail's own
_PR_SET_DUMPABLE = 4


def main() -> None:
    """Serve until the request pipe is closed."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot protect the worker from its own forks")
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
        _clean_up()


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
    deadline, taken = time.monotonic() + seconds, bytearray()
    while True:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return _refused(f"the merge took longer than {seconds:g} s and was ended")
        chunk = os.read(source, 1 << 20)
        if not chunk:
            break
        taken += chunk
        if len(taken) > output_bytes:
            return _refused(f"the merge gave more than {output_bytes >> 20} MiB and was ended")
    with contextlib.suppress(ValueError):
        if len(frames.split(bytes(taken))) == 3:
            return bytes(taken)
    return _refused("the merge died: it crashed or needed more memory than it may have")


def _refused(reason: str) -> bytes:
    said = json.dumps({"refused": {"stage": "merge", "reason": reason, "problems": []}}).encode()
    return frames.join((said, b"", b""))


def _clean_up() -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    for left in SCRATCH.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
