"""Owns the Debian base image: made once from the machine's own Debian mirror, with Python and BusyBox.

The rule that must hold: nothing of this machine (host name, resolver, machine id, logs) is inside, and the same
packages give the same bytes.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab.cache import is_current, key_of
from towline_cli.lab.command import run
from towline_cli.lab.oci import write_layout

if TYPE_CHECKING:
    from towline_cli.lab.cache import Cache
    from towline_cli.lab.progress import Step

PART = "debian base image"
INCLUDED = ("python3", "busybox-static", "ca-certificates")
NAME, TAG = "debian", "stable"
CONFIG = {"Cmd": ["/bin/bash"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}
REMOVED = (
    "var/cache/apt/*",
    "var/cache/debconf/*-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/log/*",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/lintian/*",
    "etc/machine-id",
    "etc/hostname",
    "etc/resolv.conf",
    "tmp/*",
)
PROOF = "import http.server, json, ssl, unittest"
DATE = "@1767225600"  # 2026-01-01, as the image says of itself
# Lines debootstrap prints about packages, roughly: a bar that ends a little early or late does no harm.
DEBOOTSTRAP_LINES = 540
PACKAGE_LINE = re.compile(r"I: (Retrieving|Validating|Extracting|Unpacking|Configuring) ")


def is_there(cache: Cache) -> bool:
    """Whether the image is made, by this recipe."""
    return is_current(cache.base_image / "recipe.key", _key()) and (cache.base_image / "index.json").exists()


def _key() -> str:
    return key_of(_release(), *INCLUDED, *REMOVED, DATE, repr(sorted(CONFIG.items())))


def _release() -> str:
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8")
    except OSError:
        text = ""
    found = re.search(r'^VERSION_CODENAME="?(\w+)', text, re.MULTILINE)
    return found.group(1) if found else "stable"


def mirror_of(listing: str, release: str) -> str | None:
    """The first archive in apt's own target list (`uri suite` per line) that serves `release` itself."""
    for line in listing.splitlines():
        uri, _, suite = line.partition(" ")
        if suite == release and uri.startswith(("http://", "https://")):
            return uri
    return None


def _mirror(release: str) -> str | None:
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(SUITE)", "Created-By: Packages"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return mirror_of(listed.stdout, release)


def _clean(root: Path) -> None:
    for pattern in REMOVED:
        for found in root.glob(pattern):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()
    # Byte code that names its source's date would differ with every build; this kind does not look.
    for cached in root.rglob("__pycache__"):
        shutil.rmtree(cached)
    script = (
        f"{PROOF}; import compileall, py_compile, sysconfig; compileall.compile_dir(sysconfig.get_path('stdlib'), "
        "quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    )
    run(PART, ["chroot", root, "/usr/bin/python3", "-c", script], env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"})


def install(cache: Cache, step: Step) -> None:
    """Bootstraps, cleans and packs the image; `step` counts what is done to packages."""
    if is_there(cache):
        return
    images = cache.base_image.parent
    images.mkdir(parents=True, exist_ok=True)
    root, layer = images / "debian-root", images / "debian.tar"
    shutil.rmtree(root, ignore_errors=True)
    release = _release()
    mirror = _mirror(release)
    options = ["--variant=minbase", f"--include={','.join(INCLUDED)}"]
    step.total(DEBOOTSTRAP_LINES)

    def count(line: str) -> None:
        if PACKAGE_LINE.match(line):
            step.advance()

    # debootstrap mounts /proc and /sys below `root`; in a namespace of its own they go with it, however it ends.
    command: list[str | Path] = [
        "unshare",
        "--mount",
        "debootstrap",
        *options,
        release,
        root,
        *([mirror] if mirror else []),
    ]
    log = cache.logs / "debootstrap.log"
    run(PART, command, log=log, env={"LC_ALL": "C.UTF-8"}, on_line=count)
    _clean(root)
    order = ("--sort=name", "--numeric-owner", "--clamp-mtime", f"--mtime={DATE}", "--format=gnu")
    run(PART, ["tar", "-C", root, *order, "--exclude=./dev/*", "--exclude=./proc/*", "-cf", layer, "."])
    shutil.rmtree(root)
    write_layout(cache.base_image, layer, tag=TAG, config=CONFIG)
    (cache.base_image / "recipe.key").write_text(_key(), encoding="ascii")
