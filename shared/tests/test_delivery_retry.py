"""Retry decisions and breakers, without a clock."""

from __future__ import annotations

import errno

from hypothesis import given
from hypothesis import strategies as st

from towline.delivery.progress import Progress
from towline.delivery.retry import (
    LONGEST_DELAY,
    OPEN_AFTER,
    RETRYABLE_TRIES,
    Again,
    Breaker,
    GiveUp,
    backoff,
    retry,
)
from towline.errors import DependencyDown, Permanent, Retryable


def test_a_permanent_error_is_given_up_at_once() -> None:
    assert retry(Permanent("no"), 1, "x") == GiveUp("no")


def test_a_dependency_that_is_down_is_waited_for_without_end() -> None:
    assert isinstance(retry(DependencyDown("away"), 10_000, "x"), Again)


def test_a_full_disk_is_waited_for_and_no_change_is_rejected_for_it() -> None:
    """Each change was rejected within a second as a bug, and its author told to push again."""
    assert isinstance(retry(OSError(errno.ENOSPC, "No space left on device"), 10_000, "x"), Again)
    assert isinstance(retry(OSError(errno.ENOENT, "gone"), 10_000, "x"), GiveUp)


def test_something_retryable_ends_and_says_after_how_many_tries() -> None:
    assert isinstance(retry(Retryable("later"), RETRYABLE_TRIES - 1, "x"), Again)
    last = retry(Retryable("later"), RETRYABLE_TRIES, "x")
    assert isinstance(last, GiveUp)
    assert str(RETRYABLE_TRIES) in last.reason


def test_a_bug_tells_its_class_and_not_its_words() -> None:
    last = retry(ValueError("token=s3cret"), 3, "x")
    assert isinstance(last, GiveUp)
    assert "s3cret" not in last.reason
    assert "ValueError" in last.reason


def test_the_wait_an_error_names_is_kept() -> None:
    assert retry(Retryable("slow down", after=7), 1, "x") == Again(7)


@given(st.integers(1, 10_000), st.text())
def test_backoff_is_bounded_and_the_same_for_the_same_try(tries: int, id: str) -> None:
    assert 0 < backoff(tries, id) <= LONGEST_DELAY
    assert backoff(tries, id) == backoff(tries, id)


def test_a_breaker_opens_after_repeated_failures_and_lets_one_probe_through() -> None:
    breaker = Breaker()
    for _ in range(OPEN_AFTER):
        assert breaker.may_call(0)
        breaker = breaker.called().failed(0)
    assert not breaker.may_call(0)
    later = breaker.open_until
    assert breaker.may_call(later)
    probing = breaker.called()
    assert not probing.may_call(later)
    assert probing.succeeded().may_call(later)
    assert not probing.failed(later).may_call(later)


@given(st.permutations(range(12)))
def test_only_the_contiguous_prefix_is_ever_committed(order: list[int]) -> None:
    progress = Progress()
    for offset in range(12):
        progress.started(offset)
    finished: set[int] = set()
    for offset in order:
        progress.finished(offset)
        finished.add(offset)
        ready = progress.to_commit()
        prefix = next(i for i in range(13) if i not in finished)
        assert (ready or 0) == prefix
    assert progress.gap == 0
