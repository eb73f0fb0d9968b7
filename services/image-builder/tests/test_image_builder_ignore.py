"""`.dockerignore` leaves out what its documentation says, within bounds."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline_image_builder.ignore import MAX_PATTERN_LENGTH, MAX_PATTERNS, IgnoreProblem, read


@pytest.mark.parametrize(
    ("text", "left_out", "left_in"),
    [
        ("*.md", ["a.md"], ["docs/a.md", "a.mdx"]),
        ("**/*.md", ["a.md", "docs/a.md", "a/b/c.md"], ["a.txt"]),
        ("docs", ["docs", "docs/a", "docs/a/b"], ["mydocs", "a/docs"]),
        ("/docs/", ["docs/a"], ["a/docs"]),
        ("./docs", ["docs/a"], []),
        ("*/temp*", ["a/temp", "a/temp.txt"], ["temp", "a/b/temp"]),
        ("temp?", ["tempa"], ["temp", "tempab"]),
        ("*.md\n!README.md", ["a.md"], ["README.md"]),
        ("!README.md\n*.md", ["README.md"], []),
        ("*\n!src\n!src/**", ["a", "b/c"], ["src/a", "src/b/c"]),
        ("docs\n!docs/keep.md", ["docs/a"], ["docs/keep.md"]),
        ("# note\n\n  a.txt  ", ["a.txt"], ["# note"]),
        ("[a-c].txt", ["b.txt"], ["d.txt"]),
        ("[+--]", ["+", ",", "-"], ["a"]),
        ("[^a].txt", ["b.txt"], ["a.txt"]),
        ("\\*.txt", ["*.txt"], ["a.txt"]),
        ("a/../b", ["b"], ["a"]),
        (".", [], ["a"]),
        ("a**b", ["ab", "axxb", "a/x/b"], ["b"]),
        ("**", ["a", "b/c"], []),
    ],
)
def test_patterns_mean_what_they_mean_elsewhere(text: str, left_out: list[str], left_in: list[str]) -> None:
    ignored = read(text)

    assert [path for path in left_out if not ignored(path)] == []
    assert [path for path in left_in if ignored(path)] == []


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a\n[b", 2, "has no ]"),
        ("x" * (MAX_PATTERN_LENGTH + 1), 1, "patterns of"),
        ("a\n" * (MAX_PATTERNS + 1), MAX_PATTERNS + 1, "at most"),
        ("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*", 1, "wildcards"),
        ("[?--]", 1, "is no pattern"),
        ("[z-a]", 1, "is no pattern"),
    ],
)
def test_what_is_no_pattern_is_refused_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(IgnoreProblem, match=said) as caught:
        read(text)

    assert caught.value.line == line


@given(st.text(alphabet="ab*?[]!\\/.^-# \n", max_size=60), st.text(alphabet="ab/.", min_size=1, max_size=12))
def test_no_text_does_more_than_be_refused(text: str, path: str) -> None:
    with suppress(IgnoreProblem):
        assert read(text)(path) in (True, False)
