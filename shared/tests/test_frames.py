"""Frames over a pipe that takes and gives a part at a time."""

from __future__ import annotations

import os
import threading

from towline import frames


def test_what_is_larger_than_a_pipe_arrives_whole_and_in_order() -> None:
    source, sink = os.pipe()
    large = bytes(range(256)) * 1000
    writing = threading.Thread(target=frames.write, args=(sink, frames.framed(large) + frames.framed(b"")))
    writing.start()
    assert frames.read(source) == large
    assert frames.read(source) == b""
    writing.join()
    os.close(sink)
    assert frames.read(source) is None
    os.close(source)


def test_a_frame_that_is_cut_off_is_the_end() -> None:
    source, sink = os.pipe()
    frames.write(sink, frames.framed(b"whole")[:-1])
    os.close(sink)
    assert frames.read(source) is None
    os.close(source)
