from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from towline.project.order import cycle_in

_NAMES = st.sampled_from("abcdefg")


@given(st.dictionaries(_NAMES, st.lists(_NAMES, max_size=3)))
def test_a_circle_is_a_real_path_and_without_one_an_order_exists(needs: dict[str, list[str]]) -> None:
    cycle = cycle_in(needs)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert all(later in needs[earlier] for earlier, later in itertools.pairwise(cycle))
        return
    done: set[str] = set()
    while len(done) < len(needs):
        ready = {name for name in needs if name not in done and all(n in done for n in needs[name] if n in needs)}
        assert ready, "no circle was found, yet nothing can go first"
        done |= ready


def test_a_long_chain_needs_no_deep_stack() -> None:
    needs = {f"j{n}": [f"j{n + 1}"] for n in range(5_000)}
    assert cycle_in(needs) is None
