"""What a newer version of a service stored can be loaded by an older one, as after a rollback of Towline itself."""

from __future__ import annotations

import orjson
from pydantic import Field

from towline.delivery.lane import SEPARATOR, Loader
from towline.delivery.model import State
from towline.project.model import Job


class Waiting(State):
    jobs: dict[str, Job] = Field(default_factory=dict)


def test_state_that_holds_a_job_with_a_key_of_a_later_version_is_loaded() -> None:
    loader = Loader(Waiting)
    job = {"name": "test", "run": ["true"], "key_of_the_future": 1}
    loader.feed(f"repo{SEPARATOR}state", b"{}")
    loader.feed(f"repo{SEPARATOR}state.jobs{SEPARATOR}test", orjson.dumps(job))
    assert loader.lanes()["repo"].state.jobs["test"].run == ("true",)
