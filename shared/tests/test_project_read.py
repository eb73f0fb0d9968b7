from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.project.model import MOST_IMAGES, MOST_JOBS, ImageSpec, Job, KustomizePin, Project, When, YamlPin
from towline.project.read import MAX_RESOLVED_BYTES, BadProject, read_project

WHOLE = b"""\
version: 1
jobs:
  test:
    run: python3 -m unittest
  smoke:
    run: [./one.sh, ./two.sh]
    needs: [test]
    env: {LEVEL: 1.10, SHOUT: no}
    timeout: 90s
    when: {branches: [main]}
images:
  app:
    dockerfile: docker/Dockerfile
    pins:
      - kustomize: deploy/kustomization.yaml
        image: app
      - yaml: values.yaml
        path: image.ref
manifests: [deploy/, ./more]
"""


def problems(data: bytes | str) -> list[str]:
    """What the file is refused with, as `line: message`."""
    with pytest.raises(BadProject) as caught:
        read_project(data.encode() if isinstance(data, str) else data)
    assert all(problem.file == ".towline.yaml" for problem in caught.value.problems)
    return [f"{problem.line}: {problem.message}" for problem in caught.value.problems]


def test_a_whole_file_resolves_to_jobs_images_and_manifests_in_its_order() -> None:
    project = read_project(WHOLE)
    smoke = Job(
        name="smoke",
        run=("./one.sh", "./two.sh"),
        needs=("test",),
        env={"LEVEL": "1.10", "SHOUT": "no"},
        timeout="90s",
        when=When(branches=("main",)),
    )
    assert project.jobs == (Job(name="test", run=("python3 -m unittest",)), smoke)
    pins = (
        KustomizePin(kustomize="deploy/kustomization.yaml", image="app"),
        YamlPin(yaml="values.yaml", path="image.ref"),
    )
    assert project.images == (ImageSpec(name="app", dockerfile="docker/Dockerfile", pins=pins),)
    assert project.manifests == ("deploy", "more")


@pytest.mark.parametrize("data", [b"", b"# only words\n", b"{}", b"---\n...\n", b"\xef\xbb\xbfversion: 1\n"])
def test_an_empty_file_is_the_default(data: bytes) -> None:
    assert read_project(data) == Project()


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_key() -> None:
    text = "version: 1\njobs:\n  test:\n    run: x\n    need: [a]\n"
    assert problems(text) == ["5: `jobs.test.need`: unknown key; did you mean `needs`?"]


def test_an_unknown_key_with_no_near_one_is_refused_with_all_that_exist() -> None:
    [said] = problems("colour: red\n")
    assert said == "1: `colour`: unknown key; expected one of `version`, `jobs`, `images`, `manifests`"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n", "1: expected a mapping with `version`, `jobs`, `images`, `manifests`; found a list"),
        ("version: 2\n", "1: `version`: expected 1, the version of this format"),
        ("manifests: deploy\n", "1: `manifests`: expected a list; found text"),
        ("manifests:\n  - ../up\n", "2: `manifests.0`: a path may not leave the repository"),
        (
            "manifests:\n  - /abs\n",
            "2: `manifests.0`: a path is relative to the top of the repository and uses /",
        ),
        (
            "jobs:\n",
            "1: `jobs`: expected a mapping from names to `run`, `needs`, `when`, `env`, `timeout`; found nothing",
        ),
        (
            "jobs:\n  a: x\n",
            "2: `jobs.a`: expected a mapping with `run`, `needs`, `when`, `env`, `timeout`; found text",
        ),
        ("jobs:\n  a: {run: []}\n", "2: `jobs.a.run`: expected at least one entry"),
        ("jobs:\n  a:\n    run: ''\n", "3: `jobs.a.run.0`: expected text that is not empty"),
        ("jobs:\n  a:\n    run: {b: c}\n", "3: `jobs.a.run`: expected a list; found a mapping"),
        (
            "jobs:\n  a:\n    run: x\n    name: b\n",
            "4: `jobs.a.name`: the name is the key under `jobs`; remove it",
        ),
        (
            "jobs:\n  a:\n    run: x\n    timeout: 5\n",
            "4: `jobs.a.timeout`: a duration is a whole number and a unit: 90s, 10m or 1h",
        ),
        ("jobs:\n  a:\n    run: x\n    timeout: 25h\n", "4: `jobs.a.timeout`: a job may run for at most 24h"),
        (
            'jobs:\n  a:\n    run: x\n    env: {A: "b\\0"}\n',
            "4: `jobs.a.env.A`: a character NUL stands here, which no program can be given",
        ),
        (
            'jobs:\n  a:\n    run: "x\\0"\n',
            "3: `jobs.a.run.0`: a character NUL stands here, which no program can be given",
        ),
        (
            "jobs:\n  a:\n    run: x\n    env: {1x: y}\n",
            "4: `jobs.a.env.1x`: expected a name: letters, digits and underscores, no digit first",
        ),
        (
            "jobs:\n  A:\n    run: x\n",
            "2: `jobs.A`: expected a name: lower-case letters, digits and dashes, at most 63, no dash at the ends",
        ),
        (
            "images:\n  a:\n    pins:\n      - {image: x}\n",
            "4: `images.a.pins.0`: expected `kustomize` and `image`, or `yaml` and `path`",
        ),
        (
            "images:\n  a:\n    pins:\n      - kustomize: k.yaml\n",
            "4: `images.a.pins.0.image`: is missing; expected: `name` of the entry under `images`.",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_line_and_what_was_expected(text: str, said: str) -> None:
    assert problems(text) == [said]


def test_a_job_without_run_is_refused_at_its_name() -> None:
    [said] = problems("jobs:\n  ok: {run: x}\n  bad:\n    timeout: 5m\n")
    assert said.startswith("3: `jobs.bad.run`: is missing; expected: ")


def test_all_problems_are_told_at_once_in_the_order_of_the_file() -> None:
    said = problems("version: 3\njobs:\n  a: {run: x, needs: [b]}\n  c: {ruin: x}\nmanifest: []\n")
    assert [each.split(":")[0] for each in said] == ["1", "3", "4", "4", "5"]


def test_a_circle_of_needs_is_named_as_a_path() -> None:
    text = "jobs:\n  a: {run: x, needs: [b]}\n  b: {run: x, needs: [c]}\n  c:\n    run: x\n    needs: [a]\n"
    assert problems(text) == ["2: `jobs`: the needs go in a circle: a → b → c → a; remove one of them"]


def test_a_job_that_needs_itself_is_a_circle() -> None:
    text = "jobs:\n  a: {run: x, needs: [a]}\n"
    assert problems(text) == ["2: `jobs`: the needs go in a circle: a → a; remove one of them"]


def test_a_need_that_names_no_job_is_refused_with_the_nearest_name() -> None:
    text = "jobs:\n  build: {run: x}\n  test:\n    run: x\n    needs:\n      - build\n      - biuld\n"
    assert problems(text) == ["7: `jobs.test.needs`: no job is named `biuld`; did you mean `build`?"]


def test_a_field_pinned_by_two_images_is_refused() -> None:
    pin = "pins: [{yaml: v.yaml, path: image}]"
    [said] = problems(f"images:\n  a: {{{pin}}}\n  b: {{{pin}}}\n")
    assert "`images.b.pins`: `images.a` writes the same field" in said


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: [1", "2: this is not YAML"),
        (b"jobs:\n\tx: 1\n", "2: this is not YAML"),
        (b"a: &x 1\nb: *x\n", "1: anchors and aliases"),
        (b"a: 1\nb: *x\n", "2: anchors and aliases"),
        (b"a: !!python/object:os.system 1\n", "1: the tag "),
        (b"a:\n  <<: {b: c}\n", "2: the merge key <<"),
        (b"a: 1\nb: 2\na: 3\n", "3: the key `a` stands twice; the first is in line 1"),
        (b"a: 1\n---\nb: 2\n", "2: a second document starts here"),
        (b"? [a]\n: b\n", "1: a key is text"),
        (b"a: 1\nb: \x00\n", "2: the file holds a NUL"),
        (b"a: 1\nb: \xff\n", "2: the file is not UTF-8"),
        ("a: 1".encode("utf-16"), "1: the file is not UTF-8"),
        (b"a: " + b"[" * 100 + b"]" * 100, "1: values are nested deeper than 20 levels"),
        (b"a: [" + b"1," * 30_000 + b"]", "1: the file holds more than 20000 values"),
        (b"#" * 300_000, "None: the file has 300000 bytes; at most 262144 are read"),
    ],
)
def test_yaml_that_is_more_than_plain_text_lists_and_mappings_is_refused(data: bytes, said: str) -> None:
    [only] = problems(data)
    assert only.startswith(said)


def test_a_file_too_large_for_an_event_is_refused() -> None:
    lines = ", ".join("'" + "x" * 60_000 + "'" for _ in range(3))
    [said] = problems(f"jobs:\n  a: {{run: [{lines}]}}\n")
    assert f"more than {MAX_RESOLVED_BYTES} bytes once resolved" in said


def test_more_jobs_or_images_than_one_record_of_state_can_follow_are_refused() -> None:
    """A thousand small jobs fitted into the event, and not into ci-runner's state: the repository's lane was parked."""
    for key, body, most in (("jobs", "run: x", MOST_JOBS), ("images", "", MOST_IMAGES)):
        lines = [f"  n{number}: {{{body}}}\n" for number in range(most + 1)]
        read_project(f"{key}:\n{''.join(lines[1:])}".encode())
        assert problems(f"{key}:\n{''.join(lines)}") == [f"2: `{key}`: {most + 1} stand here; at most {most} are taken"]


def test_a_pattern_that_would_take_minutes_to_translate_is_refused() -> None:
    [said] = problems(f"jobs:\n  a: {{run: x, when: {{paths: ['{'[' * 60_000}']}}}}\n")
    assert said == "2: `jobs.a.when.paths.0`: expected at most 256 characters"


def test_control_characters_of_the_file_never_reach_a_terminal() -> None:
    [said] = problems('"\\e[2Jx": 1\n')
    assert "\x1b" not in said
    assert "?[2Jx" in said


def test_a_long_hostile_key_does_not_make_a_long_message() -> None:
    [said] = problems(f"{'k' * 900}: 1\n")
    assert len(said) < 700


_ANY = st.recursive(
    st.text(max_size=12) | st.sampled_from(["jobs", "run", "needs", "when", "images", "pins", "manifests", "a"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["version", "jobs", "run", "needs", "when", "paths", "images", "pins", "yaml", "manifests", "a", "b"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(_ANY)
def test_any_yaml_gives_a_project_or_problems_and_nothing_else(value: object) -> None:
    _read_or_refuse(_yaml(value))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_project_or_problems_and_nothing_else(data: bytes) -> None:
    _read_or_refuse(data)


def _yaml(value: object) -> bytes:
    import yaml

    dump: Callable[..., str] = yaml.safe_dump
    return dump(value).encode()


def _read_or_refuse(data: bytes) -> None:
    try:
        outcome: tuple[object, ...] = (read_project(data),)
    except BadProject as error:
        outcome = error.problems
    assert outcome
