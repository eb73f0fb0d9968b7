"""The demo: the main job on real parts, as a new user would do it by hand and with the same commands."""
