"""Calls to Git inherit nothing, end within their limits, and take only names that can be nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import BadInput
from towline.git import Git, GitFailed, GitTooMuch, check_id, check_ref, is_ref, remote

EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


@pytest.fixture
def git(tmp_path: Path) -> Git:
    return Git.init_bare(tmp_path / "a.git")


def test_a_call_sees_no_variable_of_the_parent_but_those_it_needs(git: Git, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("GIT_SSH", "/bin/evil")
    seen = git.run("-c", "alias.show-env=!env", "show-env").text
    assert "s3cret" not in seen
    assert "GIT_SSH=" not in seen
    assert "GIT_CONFIG_GLOBAL=/dev/null" in seen
    assert "PATH=" in seen


def test_given_variables_reach_git_but_never_an_argument_list(tmp_path: Path) -> None:
    git = Git.init_bare(tmp_path / "a.git")
    with_secret = Git(tmp_path / "a.git", env={"TOKEN": "s3cret"})
    shown = with_secret.run("-c", "alias.t=!echo $TOKEN; tr '\\0' ' ' </proc/$PPID/cmdline", "t").text
    assert shown.startswith("s3cret\n")
    assert shown.count("s3cret") == 1
    assert "TOKEN" not in git.run("-c", "alias.show-env=!env", "show-env").text


def test_hooks_of_the_repository_never_run(git: Git, tmp_path: Path) -> None:
    hook = tmp_path / "a.git/hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    blob = git.run("hash-object", "-w", "--stdin", stdin=b"x").text
    git.run("update-ref", "refs/towline/x", blob)
    assert not (tmp_path / "ran").exists()
    Git(tmp_path / "a.git", configuration={"core.hooksPath": str(hook.parent)}).run(
        "update-ref", "refs/towline/y", blob
    )
    assert (tmp_path / "ran").exists(), "the control: with hooks allowed it runs"


def test_an_exit_code_becomes_an_error_without_credentials(git: Git) -> None:
    with pytest.raises(GitFailed, match="git cat-file ended with 128") as caught:
        git.run("cat-file", "-p", "0" * 40)
    assert caught.value.answer.code == 128
    answer = git.ask("-c", "alias.f=!echo fatal https://me:pass@host/x >&2; false", "f")
    assert "pass" not in answer.err


def test_a_call_over_its_time_is_ended_with_its_children(git: Git) -> None:
    started = time.monotonic()
    with pytest.raises(GitTooMuch, match="longer than its time limit"):
        git.run("-c", "alias.s=!sleep 60", "s", seconds=0.2)
    assert time.monotonic() - started < 10


def test_a_call_that_says_too_much_is_ended(git: Git) -> None:
    with pytest.raises(GitTooMuch, match="more than 1000 bytes"):
        git.run("-c", "alias.y=!yes", "y", output_bytes=1000)


def test_large_input_and_output_pass_through_unharmed(git: Git) -> None:
    content = bytes(range(256)) * 8000
    blob = git.run("hash-object", "-w", "--stdin", stdin=content).text
    assert git.run("cat-file", "blob", blob).out == content


def test_a_protocol_that_was_not_named_is_not_spoken(git: Git, tmp_path: Path) -> None:
    other = Git.init_bare(tmp_path / "b.git")
    who = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@x"}
    commit = Git(tmp_path / "b.git", env=who).run("commit-tree", "-m", "x", EMPTY_TREE).text
    other.run("update-ref", "HEAD", commit)
    with pytest.raises(GitFailed, match="transport 'file' not allowed"):
        git.run("fetch", str(tmp_path / "b.git"))
    Git(tmp_path / "a.git", protocols=["file"]).run("fetch", str(tmp_path / "b.git"))


@pytest.mark.parametrize(
    ("url", "protocol", "host"),
    [
        ("/srv/git/app.git", "file", "localhost"),
        ("file:///srv/git/app.git", "file", "localhost"),
        ("https://git.example.com:8443/team/app.git", "https", "git.example.com"),
        ("ssh://git@git.example.com:2222/team/app.git", "ssh", "git.example.com"),
        ("git@git.example.com:team/app.git", "ssh", "git.example.com"),
    ],
)
def test_addresses_of_the_known_kinds_are_taken(url: str, protocol: str, host: str) -> None:
    checked = remote(url)
    assert (checked.url, checked.protocol, checked.host) == (url, protocol, host)


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c touch% /tmp/x",
        "file::/srv/x",
        "/srv/ext::x",
        "-uevil",
        "--upload-pack=evil",
        "ssh://-oProxyCommand=evil/x",
        "git@-oProxyCommand=evil:x",
        "https://me:secret@host/x",
        "https://me@host/x",
        "http://host/x",
        "git://host/x",
        "file://host/x",
        "relative/path",
        "",
        "/srv/with space",
        "https://host/x\nevil",
    ],
)
def test_any_other_address_is_refused_without_quoting_its_password(url: str) -> None:
    with pytest.raises(BadInput, match="is no address Towline uses") as caught:
        remote(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["main", "-d", "refs/heads/-x", "refs/heads/a..b", "refs/heads/a@{1}", "refs//x", "refs/heads/a b", "refs/x/.lock"],
)
def test_names_that_could_be_something_else_than_a_ref_are_refused(name: str) -> None:
    with pytest.raises(BadInput):
        check_ref(name)


@given(st.text("ab/.-@{~^: *?[\\", max_size=12))
def test_every_ref_we_take_git_takes_too(name: str) -> None:
    full = "refs/heads/" + name
    if is_ref(full):
        assert Git(Path("/nonexistent")).ask("check-ref-format", full).code == 0


def test_only_full_object_ids_are_taken() -> None:
    assert check_id("a" * 40) == "a" * 40
    for wrong in ("HEAD", "a" * 39, "A" * 40, "-" + "a" * 39):
        with pytest.raises(BadInput):
            check_id(wrong)
