"""The first process in a job's sandbox: takes the order and the snapshot, unpacks, and becomes the job.

It runs as the job's own uid with nothing that the job may not have; it is started before it is needed, so that a job
waits for neither the jail nor this interpreter. Standard library, `towline.snapshot` and `towline.frames` only.

It says on the descriptor that it was given, one line each: `ready`; then `started`, or `refused <why>` when the
snapshot is not one that may be unpacked. The job does not inherit that descriptor.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from towline import frames, snapshot

WORKSPACE = "/workspace"
HOME = "/home"
SCRIPT = f"{HOME}/.job"


def main(says: int) -> None:
    os.set_inheritable(says, False)
    frames.write(says, b"ready\n")
    order, archive = frames.read(0), frames.read(0)
    if order is None or archive is None:
        return
    wanted = json.loads(order)
    try:
        snapshot.unpack(archive, Path(WORKSPACE), tree=wanted["tree"])
        Path(SCRIPT).write_text(wanted["script"])
    except (snapshot.BadSnapshot, OSError, MemoryError) as error:
        said = str(error) if str(error) else "it needs more memory than the job may have"
        frames.write(says, f"refused {said}".replace("\n", " ").encode("utf-8", "replace")[:1000] + b"\n")
        return
    with contextlib.suppress(OSError):
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.chdir(WORKSPACE)
    frames.write(says, b"started\n")
    os.execve("/bin/sh", ["sh", "-e", SCRIPT], wanted["env"])  # noqa: S606 - the jail is around it


if __name__ == "__main__":
    main(int(sys.argv[1]))
