"""The measurements of `bench/bus.py`, by subject."""
