"""Short names: as short as can be, and never the same for two."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from towline_cli.view.names import repo_of, short_change, short_digests, short_repos

PARTS = st.sampled_from(["localhost", "a", "b", "shop", "x.git"])
REPOS = st.lists(PARTS, min_size=2, max_size=4).map("/".join)


def test_one_repository_is_called_by_its_last_part() -> None:
    assert short_repos(["localhost/var/lib/towline/git/app"]) == {"localhost/var/lib/towline/git/app": "app"}


def test_two_that_end_alike_are_told_apart() -> None:
    assert short_repos(["git.example/ann/app", "git.example/bob/app", "git.example/bob/web"]) == {
        "git.example/ann/app": "ann/app",
        "git.example/bob/app": "bob/app",
        "git.example/bob/web": "web",
    }


def test_one_that_ends_as_the_whole_of_another_keeps_its_full_name() -> None:
    short = short_repos(["a/b", "x/a/b"])

    assert short["x/a/b"] == "x/a/b"


@given(st.sets(REPOS, max_size=8))
def test_a_short_name_belongs_to_one_repository_and_ends_it(repos: set[str]) -> None:
    short = short_repos(repos)

    assert set(short) == repos
    assert len(set(short.values())) == len(repos)
    assert all(repo == name or repo.endswith(f"/{name}") for repo, name in short.items())


@given(REPOS, st.text(min_size=1))
def test_a_change_keeps_its_topic_whatever_that_holds(repo: str, topic: str) -> None:
    change = f"{repo}!{topic}"

    assert repo_of(change) == repo
    assert short_change(change, {repo: "app"}) == f"app!{topic}"
    assert short_change(change, {}) == change


def test_a_digest_is_shown_by_its_beginning() -> None:
    digest = "sha256:" + "0123456789ab" + "c" * 52

    assert short_digests(f"127.0.0.1:5000/hello@{digest} built") == "127.0.0.1:5000/hello@sha256:0123456789ab… built"
    assert short_digests("sha256:short stays") == "sha256:short stays"
