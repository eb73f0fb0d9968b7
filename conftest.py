"""Owns what every test of the workspace starts from: an environment without the developer's own settings.

The rule that must hold: no test reads TOWLINE_*, GIT_*, KUBECONFIG or a Git configuration of the machine. The cache
folder and the instance name are the two exceptions: they say where real parts are installed, not how things behave.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = frozenset({"TOWLINE_CACHE"})
SCRUBBED_PREFIXES = ("TOWLINE_", "GIT_")
GIT_IDENTITY = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Test Author",
    "GIT_AUTHOR_EMAIL": "author@example.test",
    "GIT_COMMITTER_NAME": "Test Author",
    "GIT_COMMITTER_EMAIL": "author@example.test",
    "GIT_TERMINAL_PROMPT": "0",
}

settings.register_profile("fast", deadline=None, print_blob=True, max_examples=20)
settings.register_profile("default", deadline=None, print_blob=True)
settings.register_profile(
    "nightly", deadline=None, print_blob=True, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("TOWLINE_PROFILE", "default"))


def _is_personal(name: str) -> bool:
    return name not in KEPT and (name.startswith(SCRUBBED_PREFIXES) or name == "KUBECONFIG")


@pytest.fixture(scope="session", autouse=True)
def hermetic_environment() -> Iterator[None]:
    """Takes personal settings out of the environment for the whole run and puts a fixed Git identity in."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if _is_personal(name)]:
            patch.delenv(name)
        for name, value in GIT_IDENTITY.items():
            patch.setenv(name, value)
        yield
