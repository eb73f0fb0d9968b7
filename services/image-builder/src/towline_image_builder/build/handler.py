"""Does `Build`: unpack, look up the bases, and build unless the image is there under its content key.

    snapshot ─► jailed checkout ─► bases today ─► content key ─► here? in the registry? ─► contained build

What must hold:

- The content key names everything that goes into an image, so an image found under it need not be built.
- Two builds of one key do not run at once: the second waits and finds the first one's image.
- What is repository content is touched by jailed children only; this process holds credentials.
- A scratch folder goes when its build ends, however it ends.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from towline.delivery.model import EffectContext
from towline.errors import BadInput, Permanent, Retryable
from towline.events import Outcome, Problem
from towline.ids import digest_of, is_digest
from towline.store import ArtifactStore
from towline_image_builder import layout
from towline_image_builder.architecture import PLATFORM
from towline_image_builder.bases import Bases, FetchedBase, ResolvedBase
from towline_image_builder.build import said
from towline_image_builder.build.buildah import Buildah, Order
from towline_image_builder.build.checkout import EPOCH, Answer, BaseUse
from towline_image_builder.build.prepare import Checkouts
from towline_image_builder.build.scratch import remove
from towline_image_builder.messages import Build, Cancel, ImageBuilt, ImageFailed
from towline_image_builder.registry.client import Registry
from towline_image_builder.registry.push import tag_of

FORMAT = "1"
"""Part of every key: raised when the same content would give another image, such as by another way of building."""
MOST_TRIES = 3
"""Of a build whose builder stumbles."""
MOST_KEPT = 64
"""Images kept in this folder; the oldest go first. They hold little beside their bases' blobs."""
_REMEMBERED = 1000


class _Stumbled(Retryable):
    """The builder failed by itself; `failed` is what is told when it does so again and again."""

    def __init__(self, failed: ImageFailed) -> None:
        super().__init__("the builder stumbled over itself, which may pass")
        self.failed = failed


class _Refused(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass
class Builds:
    """The builds of this process. `folder` is its own, and everything in it may be lost."""

    store: ArtifactStore
    folder: Path
    bases: Bases
    buildah: Buildah
    checkouts: Checkouts
    registry: Registry | None
    most_image_bytes: int
    _running: dict[str, asyncio.Task[ImageBuilt | ImageFailed]] = field(default_factory=dict)
    _cleaning: set[asyncio.Task[None]] = field(default_factory=set)
    _unwanted: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _keys: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    """As long as a build of that key runs or waits."""

    async def close(self) -> None:
        await self.checkouts.close()
        await asyncio.gather(*self._cleaning)

    async def cancel(self, effect: Cancel, _: EffectContext) -> None:
        self._unwanted[effect.build] = None
        while len(self._unwanted) > _REMEMBERED:
            self._unwanted.popitem(last=False)
        if task := self._running.get(effect.build):
            task.cancel()

    async def build(self, effect: Build, context: EffectContext) -> ImageBuilt | ImageFailed:
        """Raises NoJail, Permanent, and what the registry's client raises."""
        gone = ImageFailed(build=effect.build, outcome=Outcome.CANCEL)
        if effect.build in self._unwanted:
            return gone
        task = self._running[effect.build] = asyncio.create_task(self._build(effect))
        try:
            return await task
        except _Stumbled as stumbled:
            if context.tries < MOST_TRIES:
                raise
            return stumbled.failed
        except asyncio.CancelledError:
            if effect.build in self._unwanted and not _is_cancelled():
                return gone
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        finally:
            del self._running[effect.build]

    async def _build(self, effect: Build) -> ImageBuilt | ImageFailed:
        top = self.folder / "builds"
        top.mkdir(exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="build-", dir=top))
        try:
            return await self._built(effect, scratch)
        except _Refused as refused:
            return ImageFailed(build=effect.build, outcome=Outcome.FAILURE, problems=(refused.problem,))
        finally:
            cleaning = asyncio.create_task(remove(scratch))  # nobody need wait for it
            self._cleaning.add(cleaning)
            cleaning.add_done_callback(self._cleaning.discard)

    async def _built(self, effect: Build, scratch: Path) -> ImageBuilt | ImageFailed:
        answer = await self._checked_out(effect, scratch)
        looked_up = await asyncio.gather(*(self._resolved(effect, use) for use in answer["bases"]))
        resolved = {use["token"]: base for use, base in zip(answer["bases"], looked_up, strict=True)}
        key = _key_of(effect, answer, resolved)
        async with self._keys.setdefault(key, asyncio.Lock()):
            if found := await self._found(effect, key):
                return found
            bases = {token: await self.bases.fetch(base) for token, base in resolved.items()}
            return await self._really_built(effect, scratch, answer, bases, key)

    async def _checked_out(self, effect: Build, scratch: Path) -> Answer:
        image = effect.image
        snapshot = await asyncio.to_thread(self.store.get, effect.snapshot)
        answer = await self.checkouts.prepare(
            {"tree": effect.source_tree, "context": image.context, "dockerfile": image.dockerfile, "args": image.args},
            snapshot,
            scratch / "tree",
        )
        if refused := answer.get("refused"):
            where = {"file": refused["file"], "line": refused["line"]}
            raise _Refused(Problem(message=refused["message"], check=f"image {image.name}", **where))
        return answer

    async def _resolved(self, effect: Build, use: BaseUse) -> ResolvedBase:
        try:
            return await self.bases.resolve(str(use["reference"]))
        except BadInput as error:
            image = effect.image
            at = Problem(message=str(error), file=image.dockerfile, line=use["line"], check=f"image {image.name}")
            raise _Refused(at) from None

    async def _found(self, effect: Build, key: str) -> ImageBuilt | None:
        """The image under its key: in the registry, or kept here since it was built."""
        if self.registry is not None:
            known = await self.registry.manifest(effect.repository, tag_of(key))
            if known is not None:
                return ImageBuilt(build=effect.build, key=key, digest=known.digest, cached=True, pushed=True)
        kept = await asyncio.to_thread(layout.load, self.kept(key))
        if kept is not None:
            return ImageBuilt(build=effect.build, key=key, digest=kept.digest, cached=True)
        return None

    async def _really_built(
        self, effect: Build, scratch: Path, answer: Answer, bases: dict[str, FetchedBase], key: str
    ) -> ImageBuilt | ImageFailed:
        image = effect.image
        order = Order(scratch / "tree", answer["context"], answer["dockerfile"], image.args, bases)
        ended = await self.buildah.build(scratch.name, order, scratch)
        written = await asyncio.to_thread(self.store.put, ended.log)
        if ended.code != 0 or ended.exceeded:
            found = said.problem_of(
                image.name, image.dockerfile, answer["steps"], ended.log, ended.exceeded, ended.code
            )
            failed = _failed(effect, found, ended.seconds, written)
            if not ended.exceeded and said.may_pass(ended.log):
                raise _Stumbled(failed)
            return failed
        try:
            kept = await asyncio.to_thread(
                layout.keep, ended.output, self.kept(key), list(bases.values()), most_bytes=self.most_image_bytes
            )
        except layout.BadLayout as bad:
            found = Problem(message=str(bad), file=image.dockerfile, check=f"image {image.name}")
            return _failed(effect, found, ended.seconds, written)
        await asyncio.to_thread(layout.forget_old, self.folder / "images", MOST_KEPT)
        return ImageBuilt(build=effect.build, key=key, digest=kept.digest, seconds=ended.seconds, log=written)

    def kept(self, key: str) -> Path:
        return self.folder / "images" / key


def _failed(effect: Build, problem: Problem, seconds: float, written: str) -> ImageFailed:
    return ImageFailed(build=effect.build, outcome=Outcome.FAILURE, problems=(problem,), seconds=seconds, log=written)


def _key_of(effect: Build, answer: Answer, resolved: dict[str, ResolvedBase]) -> str:
    hashes = (answer["context_hash"], answer["dockerfile_hash"])
    if not all(is_digest(f"sha256:{each}") for each in hashes):
        raise Permanent("the snapshot could not be unpacked: the child's answer is no hash")
    args = [part for name, value in sorted(effect.image.args.items()) for part in (name, value)]
    bases = [part for token, base in sorted(resolved.items()) for part in (token, base.digest)]
    return digest_of(FORMAT, str(EPOCH), PLATFORM, *hashes, str(len(args)), *args, *bases)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
