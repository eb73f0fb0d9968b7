"""The bus in one SQLite file: what `towline up` uses by default, and what survives kill -9 and a power cut."""

from towline.bus.sqlite.bus import SqliteBus

__all__ = ["SqliteBus"]
