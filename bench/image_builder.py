"""Figures of the image-builder, with real builds: `python bench/image_builder.py [--quick]`, one JSON object per line.

    image_builder.build.cold     contained build of the demo's application, its base unpacked for the first time
    image_builder.build.warm     the same on a base that is there
    image_builder.own.built      Towline's own time when it builds: from the candidate to its end, less build and push
    image_builder.own.found      … when another tree of the same repository has the same context: found by content key
    image_builder.own.gate       … at the gate, after its check built the image (less the push)
    image_builder.push           the push at the gate; the base's layer is in the registry

Floor of the warm build: buildah alone, as root and without a jail, on a store that holds the base.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from towline.events import BuildFinished, CandidateCreated, Outcome, Purpose
from towline_cli import lab
from towline_image_builder.settings import ImageBuilderSettings, PushRegistry
from towline_image_builder.testing import Workshop, workshop

DEMO = Path(lab.__file__).parents[1] / "demo" / "app"
PARTS = frozenset({lab.Part.REGISTRY, lab.Part.BUILDER})


def say(figure: str, value: float, unit: str, limit: float | None = None, floor: float | None = None) -> bool:
    line: dict[str, object] = {"figure": f"image_builder.{figure}", "value": round(value, 3), "unit": unit}
    if floor is not None:
        line |= {"floor": round(floor, 3), "ratio": round(value / floor, 2)}
    ok = limit is None or value <= limit
    print(json.dumps({**line, "limit": limit, "ok": ok}), flush=True)
    return ok


class Bare:
    """buildah alone, as somebody with root on the host would use it."""

    def __init__(self, base: str, folder: Path) -> None:
        self._buildah = ["buildah", "--root", f"{folder}/root", "--runroot", f"{folder}/run", "--storage-driver"]
        self._buildah.append("overlay")
        self._context = folder / "context"
        self._context.mkdir()
        self._call("pull", "--quiet", "--tls-verify=false", base)

    def build(self, files: dict[str, str]) -> float:
        for name, text in files.items():
            (self._context / name).write_text(text)
        started = time.monotonic()
        self._call("bud", "--isolation", "chroot", "--pull-never", "--layers=false", "-t", "x", str(self._context))
        return time.monotonic() - started

    def _call(self, *words: str) -> None:
        subprocess.run([*self._buildah, *words], check=True, capture_output=True)


class Timed:
    """Asks a workshop for images and tells how long Towline itself took, in milliseconds, by the times in the log."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    async def build(self, files: dict[str, str], purpose: Purpose) -> tuple[BuildFinished, float]:
        asked = await self._shop.ask(files, purpose)
        end = await self._shop.finished(asked)
        times = {id(envelope.event): envelope.time for envelope in self._shop.log.envelopes}
        took = (times[id(end)] - self._asked_at(asked)).total_seconds()
        if end.outcome is not Outcome.SUCCESS:
            raise SystemExit(f"the build failed: {end.problems}")
        return end, (took - end.build_seconds - end.push_seconds) * 1000

    def _asked_at(self, asked: CandidateCreated) -> datetime:
        return next(each.time for each in self._shop.log.envelopes if each.event == asked)


async def measure(instance: lab.Instance, folder: Path, rounds: int) -> bool:
    dockerfile = (DEMO / "Dockerfile").read_text().replace("@BASE@", instance.base_image)
    app = (DEMO / "app.py").read_text()
    bare = Bare(instance.base_image, folder)
    warm, floor, pushed = list[float](), list[float](), list[float]()
    built, found, gated = list[float](), list[float](), list[float]()
    settings = ImageBuilderSettings(registry=PushRegistry(address=instance.registry))
    async with workshop(settings, folder / "towline") as shop:
        timed = Timed(shop)
        cold, _ = await timed.build({"Dockerfile": dockerfile, "app.py": app}, Purpose.CHECK)
        for number in range(rounds):
            files = {"Dockerfile": dockerfile, "app.py": f"{app}\n# {number}\n", ".dockerignore": "README.md\n"}
            floor.append(await asyncio.to_thread(bare.build, files))
            check, own = await timed.build(files, Purpose.CHECK)
            warm.append(check.build_seconds)
            built.append(own)
            gate, own = await timed.build(files, Purpose.GATE)
            gated.append(own)
            pushed.append(gate.push_seconds)
            _, own = await timed.build({**files, "README.md": f"{number}"}, Purpose.CHECK)
            found.append(own)
    median = statistics.median
    return all(
        [
            say("build.cold", cold.build_seconds, "s"),
            say("build.warm", median(warm), "s", limit=5.0, floor=median(floor)),
            say("own.built", median(built), "ms"),
            say("own.found", median(found), "ms", limit=50.0),
            say("own.gate", median(gated), "ms", limit=50.0),
            say("push", median(pushed), "s"),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the image-builder with real builds.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    rounds = 5 if parser.parse_args().quick else 15
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="towline-bench-")))
        instance = lab.Instance("bench-builder")
        instance.start(PARTS)
        stack.callback(instance.remove)
        return 0 if asyncio.run(measure(instance, folder, rounds)) else 1


if __name__ == "__main__":
    raise SystemExit(main())
