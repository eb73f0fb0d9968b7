"""How a change is named by Git: `refs/heads/for/<target>/<topic>` ↔ change id. Pure.

Rule: two open changes never share an id. Changes of the repository's first branch are `<repo>!<topic>`; those of
another are `<repo>!<target>:<topic>`, and no ref holds a colon.
"""

from __future__ import annotations

from collections.abc import Sequence

from towline.git import is_ref
from towline.ids import ChangeId, change_id
from towline_git_watcher.settings import CHANGES

FOR = f"refs/heads/{CHANGES}/"


def target_of(ref: str, branches: Sequence[str]) -> str | None:
    """The gated branch that a ref is a change for; None when it is no change, or its name could be an option."""
    if not ref.startswith(FOR) or not is_ref(ref):
        return None
    below = ref.removeprefix(FOR)
    fitting = [branch for branch in branches if below.startswith(f"{branch}/")]
    return max(fitting, key=len, default=None)


def change_of(repo: str, ref: str, branches: Sequence[str]) -> ChangeId:
    target = target_of(ref, branches)
    if target is None:
        raise ValueError(f"{ref} is no change for one of {', '.join(branches)}")
    topic = ref.removeprefix(f"{FOR}{target}/")
    return change_id(repo, topic if target == branches[0] else f"{target}:{topic}")
