"""What a newer version of a service stored can be loaded by an older one, as after a rollback of Towline itself."""

from __future__ import annotations

import orjson
from pydantic import Field

from towline.delivery.lane import SEPARATOR, lanes_of
from towline.delivery.model import State
from towline.delivery.ownership import Rows
from towline.project.model import Job


class Waiting(State):
    jobs: dict[str, Job] = Field(default_factory=dict)


def test_state_that_holds_a_job_with_a_key_of_a_later_version_is_loaded() -> None:
    rows = Rows()
    job = {"name": "test", "run": ["true"], "key_of_the_future": 1}
    rows.feed(f"repo{SEPARATOR}state", b"{}", 0)
    rows.feed(f"repo{SEPARATOR}state.jobs{SEPARATOR}test", orjson.dumps(job), 0)
    assert lanes_of(Waiting, rows)["repo"].state.jobs["test"].run == ("true",)
