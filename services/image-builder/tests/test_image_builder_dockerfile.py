"""A Dockerfile is read for its bases and its lines; what would reach out of the build is refused with its line."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline_image_builder.dockerfile import KEYWORDS, MAX_BASES, DockerfileProblem, Recipe, read


def bases(text: str, **args: str) -> dict[str, str]:
    return {each.token: each.reference for each in read(text, args).bases}


def problem(text: str) -> DockerfileProblem:
    with pytest.raises(DockerfileProblem) as caught:
        read(text, {})
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM debian:12", {"debian:12": "debian:12"}),
        ("from debian AS x", {"debian": "debian"}),
        ("# a comment\n\nFROM debian", {"debian": "debian"}),
        ("FROM scratch", {}),
        ("FROM debian AS build\nFROM build\nCOPY --from=build /a /b", {"debian": "debian"}),
        ("FROM debian AS Build\nFROM scratch\nCOPY --from=0 /a /b\nCOPY --from=build /a /b", {"debian": "debian"}),
        ("FROM scratch\nCOPY --from=busybox /bin/sh /sh", {"busybox": "busybox"}),
        ("FROM scratch\nRUN --mount=type=bind,from=tools,target=/t true", {"tools": "tools"}),
        ("ARG V=12\nFROM debian:$V", {"debian:$V": "debian:12"}),
        ("ARG V\nARG W=${V:-x}\nFROM debian:${W}", {"debian:${W}": "debian:x"}),
        ('ARG V="12"\nFROM debian:${V:+$V}', None),
        ("FROM \\\n  debian:12", {"debian:12": "debian:12"}),
        ("# escape=`\nFROM `\n  debian", {"debian": "debian"}),
        ("# syntax=docker/dockerfile:1.4\nFROM debian", {"debian": "debian"}),
        ("FROM --platform=$BUILDPLATFORM debian", {"debian": "debian"}),
    ],
)
def test_bases_are_found_as_they_are_written_and_as_they_are_meant(text: str, expected: dict[str, str] | None) -> None:
    if expected is None:
        assert "resolved" in problem(text).message
    else:
        assert bases(text) == expected


def test_declared_arguments_win_over_defaults() -> None:
    assert bases("ARG V=12\nFROM debian:$V", V="13") == {"debian:$V": "debian:13"}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", 1, "there is no FROM"),
        ("RUN true\nFROM debian", 1, "before the first FROM"),
        ("FROM debian\nFRM x", 2, "unknown instruction 'FRM'"),
        ("FROM debian\nADD http://x.example/a /a", 2, "no network"),
        ("FROM debian\nADD --chown=1 https://x.example/a /a", 2, "no network"),
        ("FROM debian\nRUN true\nADD git@x.example:a.git /a", 3, "no network"),
        ("FROM debian\nADD ftp://x.example/a /a", 2, "no network"),
        ('FROM debian\nADD ["https://x.example/a", "/a"]', 2, "no network"),
        ('FROM debian\nADD --chown=1 ["https://x.example/a", "/a"]', 2, "no network"),
        ("FROM debian\nONBUILD ADD https://x.example/a /a", 2, "no network"),
        ("# syntax=evil.example/frontend\nFROM debian", 1, "evil.example/frontend"),
        ("#syntax = docker/dockerfile@sha256:0\nFROM debian", 1, "frontend"),
        ("FROM debian\nRUN <<EOF\necho\nEOF", 2, "here-documents"),
        ("FROM debian\nCOPY <<'EOF' /x", 2, "here-documents"),
        ("FROM debian:$V", 1, "V has no value"),
        ("FROM debian as", 1, "expected `FROM <image>`"),
        ("FROM --platform=linux/s390x debian", 1, "platform"),
        ("FROM debian\nCOPY --from=$X /a /b", 2, "X has no value"),
        ("# escape=x\nFROM debian", 1, "escape"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    found = problem(text)

    assert found.line == line
    assert said in found.message


def test_steps_are_counted_as_the_builder_counts_them() -> None:
    recipe = read("ARG V=1\nFROM a AS x\nRUN one \\\n  more\n\n# note\nRUN two\nFROM b\nRUN three", {})
    lines = {(each.stage, each.step): each.line for each in recipe.instructions}

    assert lines == {(0, 1): 1, (1, 1): 2, (1, 2): 3, (1, 3): 7, (2, 1): 8, (2, 2): 9}


def test_the_number_of_images_is_bounded() -> None:
    many = "\n".join(f"FROM image{number}" for number in range(MAX_BASES + 1))

    assert str(MAX_BASES) in problem(many).message


def test_the_size_is_bounded() -> None:
    assert "larger" in problem("FROM a\n" + "#" * (1 << 20)).message


words = st.sampled_from([*sorted(KEYWORDS), "--from=", "--mount=type=bind,from=x", "$A", "${A:-", "}", "\\", "=", "\n"])


@given(st.lists(words | st.text(max_size=8), max_size=40).map(" ".join))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with suppress(DockerfileProblem):
        assert isinstance(read(text, {"A": "x"}), Recipe)
