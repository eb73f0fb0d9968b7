"""Runs buildah in the jail: a base into a store of its own once, and a build on top of such stores.

    bases/<digest>/oci  ─pull─►  bases/<digest>/<driver>      written once, then only read by builds
    tree + stores       ─bud──►  its output folder            an OCI layout, believed no more than the tree

What must hold:

- A build gets the stores of its bases read-only and a scratch store of its own, so no build sees or spoils another.
- A base is unpacked once a host, not once a build; its layers are never packed again: where they would lie in the
  output stand empty files, which `layout.keep` replaces by the base's own blobs.
- The same tree, Dockerfile, arguments and bases give the same digest: one constant is the time of everything.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from towline import cgroup
from towline.errors import Permanent
from towline.jail import Mount, NoJail
from towline_image_builder.bases import FetchedBase
from towline_image_builder.build import child, containment, scratch
from towline_image_builder.build.checkout import EPOCH
from towline_image_builder.build.containment import BuildUser
from towline_image_builder.settings import ImageBuilderSettings

log = logging.getLogger(__name__)
_PULL_SECONDS = 600.0
_OUT_OF_TIME = 30.0
_STORAGE = """[storage]
driver = "{driver}"
graphroot = "{root}"
runroot = "/run/storage"
[storage.options]
additionalimagestores = [{more}]
"""
_PROBE = """mkdir -p /build/probe/lower /build/probe/upper /build/probe/inner /build/probe/merged && cd /build/probe &&
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=inner,userxattr merged && : > merged/file &&
umount merged"""
_BUILD = """set -e
out=$1; shift
mkdir -p /build/tmp $out/blobs/sha256
while [ "$1" != -- ]; do : > "$out/blobs/sha256/$1"; shift; done
shift
"$@"
buildah push --quiet localhost/image:latest "oci:$out:latest" >/dev/null
"""
"""Arguments: output folder, blobs that need not be written, `--`, the builder's command."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build: paths are relative to `tree`; `bases` by their token in the Dockerfile."""

    tree: Path
    context: str
    dockerfile: str
    args: Mapping[str, str]
    bases: Mapping[str, FetchedBase]


@dataclass(frozen=True, slots=True)
class Ended:
    """`exceeded` names the limit that the build ran into. `output` is an OCI layout when `code` is 0."""

    code: int
    log: bytes
    seconds: float
    output: Path
    exceeded: str | None = None


class Buildah:
    """Builds of one service; `folder` is its own, and everything in it may be lost."""

    def __init__(self, settings: ImageBuilderSettings, folder: Path, groups: cgroup.Hierarchy) -> None:
        self._settings = settings
        self._folder = folder
        self._groups = groups
        self._etc = folder / "etc"
        self._driver: str | None = None if settings.storage == "auto" else settings.storage
        self._user: BuildUser | None = None
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def missing(self) -> str | None:
        """One sentence on what containment lacks here; None when builds can run."""
        try:
            containment.build_user(self._settings.user)
            for name in containment.PARTS:
                containment.part(name)
        except NoJail as error:
            return str(error)
        return None

    async def build(self, name: str, order: Order, folder: Path) -> Ended:
        """`folder` is a new folder of this build's own; the caller removes it. Raises NoJail and Permanent."""
        await self._prepare()
        stores = [await self._store(base) for base in {each.digest: each for each in order.bases.values()}.values()]
        work = await self._own(folder / "work")
        at = [f"/bases/{number}" for number in range(len(stores))]
        conf = self._conf(folder / "storage.conf", "/build/storage", at)
        mounts = [Mount(work, "/build", writable=True), Mount(order.tree, "/tree"), conf]
        mounts += [Mount(store, target) for store, target in zip(stores, at, strict=True)]
        skipped = [diff.removeprefix("sha256:") for base in order.bases.values() for diff in base.layers]
        argv = ["/bin/sh", "-c", _BUILD, "build", "/build/out", *skipped, "--", *_bud(order)]
        limits = self._settings.limits
        ended, exceeded = await self._run(name, argv, mounts, limits.seconds, limits.log_kib << 10, watched=work)
        if ended.timed_out:
            exceeded = f"the time limit of {limits.seconds:g} s"
        return Ended(ended.code, ended.output, ended.seconds, work / "out", exceeded)

    async def _prepare(self) -> None:
        if self._user is not None:
            return
        user = containment.build_user(self._settings.user)
        self._etc.mkdir(parents=True, exist_ok=True)
        containment.write_etc(self._etc)
        self._user = user
        if self._groups.weakness:
            log.warning("builds are limited less than they should be", extra={"reason": self._groups.weakness})

    async def _driver_here(self) -> str:
        if self._driver is None:
            async with self._locks["driver"]:
                probe = await self._own(self._folder / "probe")
                argv = ["/bin/sh", "-c", _PROBE]
                ended, _ = await self._run("probe", argv, [Mount(probe, "/build", writable=True)], _OUT_OF_TIME, 4096)
                self._driver = "overlay" if ended.code == 0 else "vfs"
                if ended.code != 0:
                    said = ended.output.decode(errors="replace").strip()
                    log.warning("overlay does not work here; builds copy their bases", extra={"reason": said[-300:]})
                await scratch.remove(probe)
        return self._driver

    async def _store(self, base: FetchedBase) -> Path:
        """The base unpacked, in a store that holds it alone."""
        driver = await self._driver_here()
        store = base.layout.parent / driver
        async with self._locks[base.digest]:
            if store.exists():
                return store
            part = await self._own(store.with_name(f"{driver}.part"))
            conf = self._conf(base.layout.parent / f"{driver}.conf", "/build/store", ())
            mounts = [Mount(part, "/build", writable=True), Mount(base.layout, "/base"), conf]
            argv = ["/bin/sh", "-c", "mkdir /build/tmp && buildah pull --quiet oci:/base"]
            ended, exceeded = await self._run(f"base-{base.digest[7:19]}", argv, mounts, _PULL_SECONDS, 64 << 10)
            if ended.code != 0:
                said = exceeded or ended.output.decode(errors="replace").strip()[-500:]
                raise Permanent(f"the base {base.home}@{base.digest} could not be unpacked: {said}")
            if (part / "store").is_symlink():
                raise Permanent(f"the base {base.home}@{base.digest} led its unpacking astray; it is not used")
            (part / "store").chmod(0o755)
            (part / "store").rename(store)
            await scratch.remove(part)
        return store

    async def _own(self, folder: Path) -> Path:
        """A new, empty folder that the build user owns."""
        assert self._user is not None
        if folder.exists():
            await scratch.remove(folder)
        folder.mkdir(parents=True, mode=0o700)
        os.chown(folder, self._user.uid, self._user.gid)
        return folder

    def _conf(self, file: Path, root: str, more: Sequence[str]) -> Mount:
        """The builder's children read this file themselves, so it stands where they look and not in a variable."""
        driver = self._driver or "vfs"
        file.write_text(_STORAGE.format(driver=driver, root=root, more=", ".join(f'"{each}"' for each in more)))
        file.chmod(0o644)
        return Mount(file, "/etc/containers/storage.conf")

    async def _run(
        self,
        name: str,
        argv: Sequence[str],
        mounts: Sequence[Mount],
        seconds: float,
        kept: int,
        *,
        watched: Path | None = None,
    ) -> tuple[child.Ended, str | None]:
        """How it ended, and which limit it ran into. The disk is limited where a folder is to be `watched`."""
        assert self._user is not None
        limits = self._settings.limits
        disk = None if watched is None else limits.disk_mib << 20
        allowed = cgroup.Limits(limits.memory_mib << 20, limits.processes, limits.cpus, disk)
        group = await asyncio.to_thread(self._groups.group, name, allowed)
        namespace = await containment.user_namespace(self._user)
        full = asyncio.Event()
        watch = asyncio.create_task(_kill_when_larger(group, watched, disk, full)) if watched and disk else None
        try:
            line = containment.contained(group.inside(argv), namespace=namespace, etc=self._etc, mounts=mounts)
            of_child = child.Limits(seconds, kept)
            ended = await child.run(group.enter(line), limits=of_child, pass_fds=(namespace,))
            if full.is_set():
                return ended, f"the disk limit of {limits.disk_mib} MiB"
            return ended, group.exceeded() if ended.code != 0 else None
        finally:
            os.close(namespace)
            if watch is not None:
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
            await asyncio.shield(asyncio.to_thread(group.remove))


async def _kill_when_larger(group: cgroup.Group, folder: Path, limit: int, full: asyncio.Event) -> None:
    await scratch.until_larger(folder, limit)
    full.set()
    await asyncio.to_thread(group.kill)


def _bud(order: Order) -> list[str]:
    argv = ["buildah", "bud", "--isolation", "chroot", "--pull-never", "--layers=false", "--force-rm"]
    argv += ["--timestamp", str(EPOCH), "--ignorefile", "/etc/ignore", "--tag", "localhost/image:latest"]
    for token, base in sorted(order.bases.items()):
        argv += ["--build-context", f"{token}=docker-image://{base.image}"]
    for name, value in sorted(order.args.items()):
        argv += ["--build-arg", f"{name}={value}"]
    return [*argv, "--file", f"/tree/{order.dockerfile}", f"/tree/{order.context}"]
