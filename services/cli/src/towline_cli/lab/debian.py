"""Owns the Debian packages the lab runs on.

The rule that must hold: installing a package never starts its system service, and the machine's own policy for that
is back in place afterwards, also when the installation before this one was killed half-way.
"""

from __future__ import annotations

import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from towline_cli.lab.command import run
from towline_cli.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towline_cli.lab.cache import Cache

PART = "debian packages"
PACKAGES = (
    "buildah",
    "docker-registry",
    "bubblewrap",
    "containerd",
    "runc",
    "containernetworking-plugins",
    "debootstrap",
    "uidmap",
    "iproute2",
    "openssl",
    "libc6-dev",
)
POLICY = Path("/usr/sbin/policy-rc.d")
MARK = "# written by towline while it installs packages"
SAVED_SUFFIX = ".before-towline"
LOCK_SECONDS = 300
APT = ("apt-get", "-q", "-y", "-o", f"DPkg::Lock::Timeout={LOCK_SECONDS}")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}


def missing_of(listing: str) -> tuple[str, ...]:
    """Packages not in `listing`, which is `dpkg-query`'s "ii  name" per line."""
    installed = {line.split()[1] for line in listing.splitlines() if line.startswith("ii") and len(line.split()) > 1}
    return tuple(name for name in PACKAGES if name not in installed)


def missing() -> tuple[str, ...]:
    """Packages this machine still lacks."""
    command = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev} ${Package}\n", *PACKAGES]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise LabError(PART, "dpkg-query could not be started: this is not a Debian system.") from error
    return missing_of(listing)


def is_unfinished(policy: Path = POLICY) -> bool:
    """Whether an installation was killed before it had put the machine's policy back (or one is at work)."""
    return policy.exists() and MARK in policy.read_text(encoding="utf-8", errors="replace")


@contextmanager
def no_services(policy: Path = POLICY) -> Iterator[None]:
    """No package starts its service inside; the policy that was there before is back afterwards."""
    saved = policy.with_name(policy.name + SAVED_SUFFIX)
    if policy.exists() and not is_unfinished(policy):
        policy.rename(saved)
    policy.write_text(f"#!/bin/sh\n{MARK}\nexit 101\n", encoding="utf-8")
    policy.chmod(0o755)
    try:
        yield
    finally:
        if saved.exists():
            saved.replace(policy)
        else:
            policy.unlink(missing_ok=True)


def _apt(cache: Cache, *words: str) -> None:
    """apt-get, tried again while another process holds the package lists (its own waiting covers dpkg's lock only)."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            run(PART, (*APT, *words), env=QUIET, log=cache.logs / "apt.log")
        except LabError as error:
            if "Could not get lock" not in error.message or time.monotonic() > deadline:
                raise
            time.sleep(1.0)
        else:
            return


def install(cache: Cache) -> None:
    """Installs what is missing, with package lists refreshed only when they turn out to be absent or stale."""
    needed = missing()
    if not needed and not is_unfinished():
        return
    with no_services():
        if needed:
            with suppress(LabError):
                _apt(cache, "install", "--no-install-recommends", *needed)
        if missing():
            _apt(cache, "update")
            _apt(cache, "install", "--no-install-recommends", *missing())
    left = missing()
    if left:
        raise LabError(PART, f"still not installed: {', '.join(left)}.", log=cache.logs / "apt.log")
