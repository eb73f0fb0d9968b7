"""What a failed build says to its author: image, Dockerfile line, and the last output of what failed. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from towline.errors import redact
from towline.events import Problem
from towline_image_builder.build.checkout import Step

LAST_LINES = 15
MOST_CHARS = 2000
_STEP = re.compile(r"^(?:\[(\d+)/\d+\] )?STEP (\d+)(?:/\d+)?: (.*)")
_ERROR = re.compile(r"^(Error: |subprocess exited with status \d+$|time=\"[^\"]*\" level=)")
_EXIT = re.compile(r"exit status (\d+)")


_PASSING = b"sealing memfd copy: Device or resource busy"
"""Before each step the builder copies itself into memory that cannot be written, and the kernel refuses that for a
moment when it happens to look at the pages. No fault of the Dockerfile."""


def may_pass(output: bytes) -> bool:
    """True when the builder itself stumbled, at the very end: the same build may succeed the next time."""
    return _PASSING in b"".join(output.rstrip().splitlines(keepends=True)[-3:])


def problem_of(
    image: str, dockerfile: str, steps: Sequence[Step], output: bytes, exceeded: str | None, code: int
) -> Problem:
    lines = output.decode(errors="replace").splitlines()
    at, stage, number, text = -1, 1, 0, ""
    for index, line in enumerate(lines):
        if found := _STEP.match(line):
            at, stage, number, text = index, int(found[1] or 1), int(found[2]), found[3]
    step = next((each for each in steps if (each["stage"], each["step"]) == (stage, number)), None)
    after = lines[at + 1 :]
    own = [line for line in after if line.strip() and not _ERROR.match(line)]
    errors = [line for line in after if line.startswith("Error: ")]
    exit_code = next((match[1] for line in reversed(errors) if (match := _EXIT.search(line))), None)
    if exceeded:
        why = f"it ran into {exceeded}"
    elif exit_code:
        why = f"exit status {exit_code}"
    else:
        why = errors[-1].removeprefix("Error: ") if errors else f"the builder ended with {code}"
    what = f"{text.strip()[:200]}: {why}" if text else why
    last = "\n".join(own[-LAST_LINES:])[-MOST_CHARS:]
    message = f"{what}; its last output:\n{last}" if last else what
    return Problem(message=redact(message), file=dockerfile, line=step and step["line"], check=f"image {image}")
