"""Owns the pause program and its image: what every pod's sandbox, and every node's process namespace, starts with."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab.cache import is_current, key_of
from towline_cli.lab.command import run
from towline_cli.lab.oci import write_layout

if TYPE_CHECKING:
    from towline_cli.lab.cache import Cache

PART = "pause image"
SOURCE = Path(__file__).parent / "parts" / "pause" / "pause.c"
FLAGS = ("-static", "-Os", "-s")
NAME, TAG = "pause", "1"


def is_there(cache: Cache) -> bool:
    """Whether program and image are built from the source as it is now."""
    stamp = cache.bin / "pause.key"
    return is_current(stamp, key_of(SOURCE, *FLAGS)) and (cache.pause_image / "index.json").exists()


def install(cache: Cache) -> None:
    """Compiles the program and packs it alone into an image."""
    if is_there(cache):
        return
    cache.bin.mkdir(parents=True, exist_ok=True)
    cache.pause_image.parent.mkdir(parents=True, exist_ok=True)
    program = cache.bin / "pause"
    run(PART, ["cc", *FLAGS, "-o", program, SOURCE], log=cache.logs / "pause.log")
    layer = cache.pause_image.parent / "pause.tar"
    content = program.read_bytes()
    with tarfile.open(layer, "w") as archive:
        entry = tarfile.TarInfo("pause")
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    write_layout(cache.pause_image, layer, tag=TAG, config={"Entrypoint": ["/pause"]})
    (cache.bin / "pause.key").write_text(key_of(SOURCE, *FLAGS), encoding="ascii")
