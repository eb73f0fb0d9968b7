"""Runs declared jobs: untrusted commands on an untrusted tree, contained, limited and ended whole."""
