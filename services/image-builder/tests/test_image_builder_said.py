"""A failed build names the image, the Dockerfile's line and the last output of what failed."""

from __future__ import annotations

from towline_image_builder.build.checkout import Step
from towline_image_builder.build.said import LAST_LINES, MOST_CHARS, may_pass, problem_of

STEPS = [
    Step(line=1, keyword="FROM", stage=1, step=1),
    Step(line=4, keyword="RUN", stage=1, step=2),
    Step(line=9, keyword="RUN", stage=2, step=2),
]
FAILED = b"""STEP 1/2: FROM 07eb
STEP 2/2: RUN make
cc -o app app.c
app.c:3: error: expected ;
Error: building at STEP "RUN make": while running runtime: exit status 2
"""


def test_a_failed_run_is_said_with_its_line_its_status_and_its_last_output() -> None:
    found = problem_of("app", "deploy/Dockerfile", STEPS, FAILED, None, 1)

    assert (found.file, found.line, found.check) == ("deploy/Dockerfile", 4, "image app")
    assert found.message == "RUN make: exit status 2; its last output:\ncc -o app app.c\napp.c:3: error: expected ;"


def test_a_step_of_a_later_stage_is_found_by_stage_and_step() -> None:
    output = b'[2/2] STEP 2/3: RUN false\nError: building at STEP "RUN false": exit status 1\n'

    assert problem_of("app", "Dockerfile", STEPS, output, None, 1).line == 9


def test_a_limit_is_named_instead_of_a_status() -> None:
    found = problem_of("app", "Dockerfile", STEPS, FAILED, "the memory limit of 64 MiB", 1)

    assert found.message.startswith("RUN make: it ran into the memory limit of 64 MiB; ")


def test_a_builder_that_failed_before_its_first_step_says_its_own_error() -> None:
    found = problem_of("app", "Dockerfile", STEPS, b"Error: no stage named x\n", None, 125)

    assert (found.message, found.line) == ("no stage named x", None)


def test_a_builder_that_said_nothing_is_said_by_its_status() -> None:
    assert problem_of("app", "Dockerfile", STEPS, b"", None, 125).message == "the builder ended with 125"


def test_long_output_is_cut_to_its_end() -> None:
    lines = b"".join(b"line %d %s\n" % (number, b"x" * 300) for number in range(200))
    found = problem_of("app", "Dockerfile", STEPS, b"STEP 2/2: RUN make\n" + lines, None, 1)

    assert "line 199" in found.message
    assert len(found.message) < MOST_CHARS + 200
    assert found.message.count("\n") <= LAST_LINES


def test_what_a_run_claims_to_be_a_step_breaks_nothing() -> None:
    output = b"STEP 99/99: RUN nothing\nSTEP 99999999999999999999/1: \xff\n"

    assert problem_of("app", "Dockerfile", STEPS, output, None, 1).line is None


def test_credentials_in_foreign_output_are_taken_out() -> None:
    output = b"STEP 2/2: RUN x\nfetch https://user:hunter2@x.example/\n"

    assert "hunter2" not in problem_of("app", "Dockerfile", STEPS, output, None, 1).message


def test_a_builder_that_stumbled_over_itself_is_told_from_a_step_that_failed() -> None:
    """Seen once in some hundred builds: the kernel would not seal the builder's own copy at that moment."""
    stumbled = b"STEP 3/3: RUN true\nClose_Fd sealing memfd copy: Device or resource busy\nError: building at STEP\n"
    assert may_pass(stumbled)
    assert not may_pass(FAILED)
    assert not may_pass(stumbled + b"more\nand\nmore\n")
