"""The image-builder on a bus of its own, for tests and figures: ask for images of some files, see how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from towline import flow
from towline.bus.open import open_bus
from towline.bus.port import Bus
from towline.delivery import codec
from towline.delivery.model import Envelope
from towline.events import BuildFinished, CandidateCreated, CandidateSuperseded, Event, Purpose
from towline.host import Host
from towline.ids import digest_of
from towline.project.model import ImageSpec
from towline.snapshot import FILE, Entry, pack, tree_id
from towline.store import FolderStore
from towline.testing import Log, running
from towline_image_builder.service import build
from towline_image_builder.settings import ImageBuilderSettings

REPO = "local/app"
IMAGE = (ImageSpec(name="app"),)
_ABOUT = {"repo": REPO, "change": f"{REPO}!topic", "target": "main", "head": "0" * 40}


@dataclass
class Workshop:
    """`log` holds what was said so far; `store` is the artifact store, snapshots and logs are in it."""

    bus: Bus
    store: FolderStore
    folder: Path
    log: Log
    asked: int = field(default=0)

    async def ask(
        self,
        files: Mapping[str, str] | Iterable[Entry],
        purpose: Purpose = Purpose.CHECK,
        images: tuple[ImageSpec, ...] = IMAGE,
    ) -> CandidateCreated:
        """A candidate of these files, published; every one has an id of its own."""
        if isinstance(files, Mapping):
            files = [Entry(path, FILE, text.encode()) for path, text in files.items()]
        entries = list(files)
        return await self.ask_for(tree_id(entries), pack(entries), purpose, images)

    async def ask_for(
        self, tree: str, snapshot: bytes, purpose: Purpose = Purpose.CHECK, images: tuple[ImageSpec, ...] = IMAGE
    ) -> CandidateCreated:
        self.asked += 1
        event = CandidateCreated(
            **_ABOUT,
            candidate=digest_of(str(self.folder), str(self.asked))[:40],
            base="1" * 40,
            source_tree=tree,
            snapshot=self.store.put(snapshot),
            purpose=purpose,
            images_expected=images,
        )
        await self._publish(event)
        return event

    async def supersede(self, event: CandidateCreated) -> None:
        await self._publish(CandidateSuperseded(**_ABOUT, candidate=event.candidate, reason="a new head"))

    async def finished(self, event: CandidateCreated, timeout: float = 60.0) -> BuildFinished:
        return await self.log.wait_for(
            BuildFinished, lambda end: (end.candidate, end.purpose) == (event.candidate, event.purpose), timeout=timeout
        )

    async def build(
        self,
        files: Mapping[str, str] | Iterable[Entry],
        purpose: Purpose = Purpose.CHECK,
        images: tuple[ImageSpec, ...] = IMAGE,
    ) -> BuildFinished:
        return await self.finished(await self.ask(files, purpose, images))

    def output(self, end: BuildFinished) -> str:
        """What the build printed."""
        return self.store.get(end.log).decode() if end.log else ""

    async def _publish(self, event: Event) -> None:
        self.asked += 1
        now = datetime.now(UTC)
        envelope = Envelope(event, f"asked-{self.asked}", codec.source_of(flow.WATCHER), now, REPO)
        await self.bus.publish([codec.fact(flow.WATCHER, envelope)])


@asynccontextmanager
async def workshop(
    settings: ImageBuilderSettings, folder: Path, *, bases: Path | None = None
) -> AsyncIterator[Workshop]:
    """`folder` holds the bus, the artifact store and the service's own folder; used again, it is a restart.

    `bases` is a folder of bases to share with others: unpacking one takes longer than most builds.
    """
    own = folder / flow.BUILDER
    own.mkdir(parents=True, exist_ok=True)
    if bases is not None:
        (own / "bases").symlink_to(bases)
    store = FolderStore(folder / "artifacts")
    bus = await open_bus(f"sqlite:///{folder}/bus.db", partitions=flow.PARTITIONS)
    try:
        async with running(bus, build(settings, Host(store, own))):
            yield Workshop(bus, store, own, Log(bus))
    finally:
        await bus.close()
