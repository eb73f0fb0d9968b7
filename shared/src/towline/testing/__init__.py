"""What tests of a service need: a process on a real bus, and a way to wait for an event without sleeping."""

from towline.observe import Log
from towline.testing.running import running

__all__ = ["Log", "running"]
