"""What a job's end means, said so that its author can mend it: verdict, problem, the telling lines of its output."""

from __future__ import annotations

import re

from towline.events import Problem, Verdict
from towline.project.model import Job
from towline_ci_runner.sandbox.launch import WORKSPACE
from towline_ci_runner.sandbox.sandbox import Done

TAIL_LINES = 12
TAIL_BYTES = 1200
MOST_NAMED = 5
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")
_FAILED_TEST = re.compile(r"^(?:(?:FAIL|ERROR): .{1,200}|FAILED .{1,200}::.{1,200}|\s*--- FAIL: .{1,200})$")
"""How unittest, pytest and Go name a test that failed."""
_FRAME = re.compile(rf'^\s*File "(?:{WORKSPACE}/)?([^"/][^"]{{0,300}})", line (\d{{1,7}})')
"""A line of a Python traceback, inside of the workspace."""


def verdict_of(done: Done) -> Verdict:
    if done.ended == "cancelled":
        return Verdict.CANCELLED
    return Verdict.VALID if done.exit_code == 0 else Verdict.INVALID


def problem_of(job: Job, done: Done) -> Problem:
    """For a job that was not valid."""
    if done.refused is not None:
        return Problem(message=f"the tree cannot be tested: {_shown(done.refused)}", check=job.name)
    lines = _lines(done.log[-64 * 1024 :])
    named = [line.strip() for line in lines if _FAILED_TEST.match(line)][:MOST_NAMED]
    file, line = _place(lines)
    said = "\n".join([_sentence(job, done), *named, *_tail(lines)])
    return Problem(message=said, file=file, line=line, check=job.name)


def _sentence(job: Job, done: Done) -> str:
    if done.ended == "timeout":
        return f"job {job.name} was ended after its timeout of {job.timeout}; make it faster or raise `timeout`"
    if done.ended == "output":
        return f"job {job.name} was ended because it wrote too much output; write less, or into files"
    because = f"; it ran into {done.exceeded}" if done.exceeded else ""
    return f"job {job.name} failed with exit code {done.exit_code}{because}"


def _tail(lines: list[str]) -> list[str]:
    kept: list[str] = []
    left = TAIL_BYTES
    for line in reversed(lines):
        shown = line[:300]
        left -= len(shown.encode()) + 1
        if left < 0 or len(kept) == TAIL_LINES:
            break
        kept.append(shown)
    return kept[::-1]


def _place(lines: list[str]) -> tuple[str | None, int | None]:
    """Where the last traceback through the workspace ended."""
    for line in reversed(lines):
        if (found := _FRAME.match(line)) and ".." not in found[1].split("/"):
            return found[1], int(found[2])
    return None, None


def _lines(output: bytes) -> list[str]:
    """Without blank ones, and without what would steer a terminal."""
    return [line for each in output.decode("utf-8", "replace").split("\n") if (line := _shown(each)).strip()]


def _shown(text: str) -> str:
    plain = _ESCAPES.sub("", text).rpartition("\r")[2] if "\r" in text.rstrip("\r") else _ESCAPES.sub("", text)
    return "".join(char for char in plain if char.isprintable() or char == "\t")[:2000].rstrip()
