"""The generated hooks, by real pushes: what they refuse and say, and that only Towline's own landing gets by."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from towline.errors import BadInput
from towline_git_watcher import secret
from towline_git_watcher.hooks.install import Guard, NoRepository, install
from towline_git_watcher.testing import Clone, Refused

pytestmark = pytest.mark.whole_service


KEY = "5ec4e7" * 8
GUARD = Guard("localhost/app", ("main", "release/1.0"), KEY, None)


@pytest.fixture
def guarded(clone: Clone) -> Clone:
    install(clone.remote, GUARD)
    return clone


def refusal(clone: Clone, *args: str) -> str:
    with pytest.raises(Refused) as caught:
        clone.git("push", "--quiet", *args)
    return str(caught.value)


def test_a_direct_push_is_refused_with_what_to_do_instead(guarded: Clone) -> None:
    before, commit = guarded.at("main"), guarded.commit("x", {"app.py": "1"})
    said = refusal(guarded, "origin", f"{commit}:refs/heads/main")
    assert "Towline guards main" in said
    assert "git push origin HEAD:refs/heads/for/main/<topic>" in said
    assert guarded.at("main") == before
    guarded.push(commit, "refs/heads/for/main/x")
    guarded.push(commit, "refs/heads/anything-else")


def test_without_the_hook_the_same_push_goes_through(clone: Clone) -> None:
    clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/main")


def test_a_gated_branch_is_neither_deleted_nor_moved_by_force(guarded: Clone) -> None:
    before, other = guarded.at("main"), guarded.commit("x", {"app.py": "1"})
    assert "Towline guards main" in refusal(guarded, "origin", ":refs/heads/main")
    assert "Towline guards main" in refusal(guarded, "--force", "origin", f"{other}:refs/heads/main")
    assert guarded.at("main") == before


def test_an_empty_repository_gets_its_first_commits(top: Path, clone: Clone) -> None:
    empty = top / "empty.git"
    clone.git("init", "--quiet", "--bare", str(empty))
    install(empty, GUARD)
    clone.git("push", "--quiet", str(empty), "HEAD:refs/heads/main")
    assert "Towline guards main" in refusal(clone, str(empty), ":refs/heads/main")


def test_a_landing_with_its_permit_moves_the_branch(guarded: Clone) -> None:
    old, new = guarded.at("main"), guarded.commit("x", {"app.py": "1"})
    permit = secret.permit(KEY, "refs/heads/main", old, new)
    guarded.push(new, "refs/heads/main", "--push-option=unrelated", f"--push-option={permit}")
    assert guarded.at("main") == new


@pytest.mark.parametrize("case", ["other key", "other ref", "other new", "other old", "no hex", "empty"])
def test_a_permit_for_anything_else_is_refused(guarded: Clone, case: str) -> None:
    old, new = guarded.at("main"), guarded.commit("x", {"app.py": "1"})
    forged = {
        "other key": secret.permit("0" * 64, "refs/heads/main", old, new),
        "other ref": secret.permit(KEY, "refs/heads/release/1.0", old, new),
        "other new": secret.permit(KEY, "refs/heads/main", old, old),
        "other old": secret.permit(KEY, "refs/heads/main", new, new),
        "no hex": "towline-landing=ø",
        "empty": "towline-landing=",
    }[case]
    said = refusal(guarded, f"--push-option={forged}", "origin", f"{new}:refs/heads/main")
    assert "Towline guards main" in said
    assert KEY not in said


def test_a_malformed_object_is_refused_at_the_door(guarded: Clone) -> None:
    """Taken in, one such push stopped every fetch of the mirror, and with it all changes of the repository."""
    with pytest.raises(Refused, match="missingEmail"):
        guarded.push(guarded.malformed(), "refs/heads/for/main/x")


def test_one_permit_does_not_carry_a_second_branch(guarded: Clone) -> None:
    install(guarded.remote, Guard("localhost/app", ("main", "next"), KEY, None))
    old, new = guarded.at("main"), guarded.commit("x", {"app.py": "1"})
    guarded.push(old, "refs/heads/next")
    permit = f"--push-option={secret.permit(KEY, 'refs/heads/main', old, new)}"
    refusal(guarded, permit, "origin", f"{new}:refs/heads/main", f"{new}:refs/heads/next")
    assert (guarded.at("main"), guarded.at("next")) == (old, old)


@pytest.mark.parametrize(
    "topic",
    ["main/-x", "main/a/-b", "main/a b", "main/ü", "main/$(id)", "main/`id`", "main/a'b", 'main/a"b', "main/a;b"],
)
def test_a_topic_that_could_be_an_option_or_a_command_is_refused(guarded: Clone, topic: str) -> None:
    """Git itself would take each of these names, but for the blank."""
    said = refusal(guarded, "origin", f"{guarded.at('main')}:refs/heads/for/{topic}")
    assert "a topic is made of letters" in said or "not a valid ref" in said or "invalid refspec" in said


def test_a_change_for_a_branch_that_is_not_gated_is_refused_naming_those_that_are(guarded: Clone) -> None:
    said = refusal(guarded, "origin", f"{guarded.at('main')}:refs/heads/for/develop/x")
    assert "expected refs/heads/for/<branch>/<topic>; gated branches are: main, release/1.0." in said


def test_a_branch_in_the_place_of_all_changes_is_refused(guarded: Clone) -> None:
    """Where no change was open Git took it, and no ref below refs/heads/for/ could be made any more."""
    said = refusal(guarded, "origin", f"{guarded.at('main')}:refs/heads/for")
    assert "expected refs/heads/for/<branch>/<topic>" in said


def test_a_branch_with_a_slash_is_gated_too(guarded: Clone) -> None:
    commit = guarded.commit("x", {"app.py": "1"})
    guarded.push(commit, "refs/heads/release/1.0")
    other = guarded.commit("y", {"app.py": "2"}, on=commit)
    assert "HEAD:refs/heads/for/release/1.0/<topic>" in refusal(guarded, "origin", f"{other}:refs/heads/release/1.0")
    guarded.push(other, "refs/heads/for/release/1.0/y")


def test_a_change_is_updated_by_force_and_abandoned_by_deleting_it(guarded: Clone) -> None:
    guarded.push(guarded.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")
    guarded.push(guarded.commit("y", {"app.py": "2"}), "refs/heads/for/main/x", "--force")
    guarded.git("push", "--quiet", "origin", ":refs/heads/for/main/x")


def test_a_push_does_not_wait_for_a_receiver_that_never_answers(clone: Clone) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as deaf:
        install(clone.remote, Guard("localhost/app", ("main",), KEY, ("127.0.0.1", deaf.getsockname()[1])))
        commit = clone.commit("x", {"app.py": "1"})
        started = time.monotonic()
        clone.push(commit, "refs/heads/for/main/x")
        assert time.monotonic() - started < 4, "the hint alone would take five seconds"
        deaf.settimeout(10)
        link, _ = deaf.accept()
        with link:
            assert link.recv(4096).startswith(b"POST /hints/plain HTTP/1.1\r\n"), "the control: the hint was sent"


def test_a_push_goes_through_where_no_receiver_and_no_python_is(clone: Clone) -> None:
    install(clone.remote, Guard("localhost/app", ("main",), KEY, ("127.0.0.1", 9)))
    hook = clone.remote / "hooks" / "post-receive"
    hook.write_text(hook.read_text().replace("python=python3", "python=/nonexistent/python"))
    clone.push(clone.commit("x", {"app.py": "1"}), "refs/heads/for/main/x")


def test_hooks_are_generated_again_without_a_change(guarded: Clone) -> None:
    def files() -> dict[str, tuple[bytes, int, int]]:
        found = [*(guarded.remote / "hooks").iterdir(), *(guarded.remote / "towline").iterdir()]
        return {file.name: (file.read_bytes(), file.stat().st_mode, file.stat().st_mtime_ns) for file in found}

    before = files()
    install(guarded.remote, GUARD)
    assert files() == before
    assert (guarded.remote / "towline" / "key").stat().st_mode & 0o777 == 0o600


def test_a_foreign_hook_is_left_alone_and_named(clone: Clone) -> None:
    hook = clone.remote / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(BadInput, match="pre-receive is not Towline's and is left alone; move it away"):
        install(clone.remote, GUARD)
    assert hook.read_text() == "#!/bin/sh\nexit 0\n"


def test_a_repository_of_another_user_is_left_alone(clone: Clone, top: Path) -> None:
    """Git refuses it anyway; and whoever owns it could have sent Towline's files elsewhere by a link."""
    (top / "elsewhere").mkdir()
    (clone.remote / "towline").symlink_to(top / "elsewhere")
    os.chown(clone.remote, 64_999, 64_999)
    with pytest.raises(BadInput, match="belongs to uid 64999"):
        install(clone.remote, GUARD)
    assert list((top / "elsewhere").iterdir()) == []


def test_what_is_no_bare_repository_is_said_to_be_none(top: Path) -> None:
    with pytest.raises(NoRepository, match="git init --bare"):
        install(top / "nowhere", GUARD)


def test_a_configured_hooks_path_is_refused(clone: Clone) -> None:
    clone.git("config", "core.hooksPath", "elsewhere", cwd=clone.remote)
    with pytest.raises(BadInput, match=r"core\.hooksPath"):
        install(clone.remote, GUARD)
