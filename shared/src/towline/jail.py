"""Containment for work on hostile input: merging, rendering, building, testing.

Owns the command line that puts a child into a jail. What must hold inside:

- an unprivileged real uid, no capability, no new privileges, and its own pid, ipc, uts and cgroup namespaces;
- no network, unless the caller asks for it;
- an allow-list of mounts: the system's programs read-only, what the caller names, and nothing else of the host;
- an empty environment but for what the caller names.

`bwrap` as root would leave the child root's capabilities, so as root `setpriv` steps down to `uid` inside, before
`argv` starts; it is inside because an unprivileged bwrap could not mount an interpreter that lives in a private
home. Without root the user namespace does it all. Limits of memory and processes are the caller's, by `towline.cgroup`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from towline.errors import Permanent

JAIL_UID = 64_000
"""First of 1,000 uids for jailed children; no account has them, so they own nothing on the host."""

_AS_ROOT = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-cgroup-try", "--cap-drop", "ALL"),
    *("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"),
)
"""What bwrap keeps for the one step that follows it: setpriv gives up the uid, and these with it."""
_NO_PRIVILEGE = ("--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")

_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "lib32")
_ETC = ("alternatives", "ld.so.cache", "ssl/certs", "mime.types")


class NoJail(Permanent):
    """This host lacks a part that containment needs; nothing hostile is run without it."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A host path inside the jail, read-only unless `writable`."""

    source: Path
    target: str
    writable: bool = False


def jail(
    argv: Sequence[str],
    *,
    mounts: Sequence[Mount] = (),
    workdir: str = "/",
    env: Mapping[str, str] | None = None,
    uid: int = JAIL_UID,
    network: bool = False,
    scratch: Sequence[str] = (),
    scratch_bytes: int | None = None,
) -> list[str]:
    """The command that runs `argv` contained. Raises NoJail when bubblewrap or setpriv is missing.

    Paths under a writable mount must already belong to `uid` when the caller is root. `scratch` names folders in
    memory that are writable inside and gone with the jail, besides /tmp and /dev/shm; each may hold `scratch_bytes`,
    by default what the group's memory allows.
    """
    as_root = os.geteuid() == 0
    bwrap = [_part("bwrap"), *(_AS_ROOT if as_root else ("--unshare-all", "--uid", str(uid), "--gid", str(uid)))]
    bwrap += ["--die-with-parent", "--new-session", "--hostname", "jail", "--unshare-uts", "--clearenv"]
    if as_root and not network:
        bwrap.append("--unshare-net")
    if network and not as_root:
        bwrap.append("--share-net")
    bwrap += _system_mounts()
    bwrap += ["--proc", "/proc", "--dev", "/dev"]
    size = () if scratch_bytes is None else ("--size", str(scratch_bytes))
    for folder in ("/tmp", "/dev/shm", *scratch):  # noqa: S108 - the jail's own
        bwrap += ["--perms", "1777", *size, "--tmpfs", folder]
    made = {"/", "/etc", "/tmp"}  # noqa: S108 - the jail's own
    for parent in sorted({str(up) for mount in mounts for up in Path(mount.target).parents} - made):
        bwrap += ["--perms", "0755", "--dir", parent]  # bwrap's own would be closed to the jailed uid
    for mount in mounts:
        bwrap += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    base = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}  # noqa: S108
    for name, value in {**base, **(env or {})}.items():
        bwrap += ["--setenv", name, value]
    step_down = [_part("setpriv"), f"--reuid={uid}", f"--regid={uid}", *_NO_PRIVILEGE] if as_root else []
    return [*bwrap, "--chdir", workdir, "--", *step_down, *argv]


def python(*modules: str) -> tuple[list[str], list[Mount]]:
    """This interpreter for use in a jail: the argv prefix and the mounts that make it and `modules` importable.

    `modules` are names of importable top-level packages or modules of this environment; only they are mounted, in
    `/modules`, which the caller names in `PYTHONPATH`.
    """
    home = Path(os.path.realpath(sys.base_prefix))
    inside = str(home) if home.is_relative_to("/usr") else "/python"
    mounts = [] if home.is_relative_to("/usr") else [Mount(home, inside)]
    for name in modules:
        source = _module_path(name)
        mounts.append(Mount(source, f"/modules/{source.name}"))
    program = Path(os.path.realpath(sys.executable)).relative_to(home)
    return [f"{inside}/{program}", "-P", "-s", "-B"], mounts


@cache
def _part(name: str) -> str:
    path = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        raise NoJail(
            f"{name} is not installed; hostile input is never handled without it (Debian: bubblewrap, util-linux)"
        )
    return path


@cache
def _module_path(name: str) -> Path:
    import importlib.util

    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise NoJail(f"the module {name} is not importable here, so it cannot be given to a jailed child")
    origin = Path(spec.origin)
    return origin.parent if origin.name == "__init__.py" else origin


@cache
def _system_mounts() -> tuple[str, ...]:
    args: list[str] = []
    for folder in ("/etc", "/etc/ssl"):
        args += ["--perms", "0755", "--dir", folder]  # as above
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            args += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            args += ["--ro-bind", str(path), str(path)]
    for name in _ETC:
        path = Path("/etc", name)
        if path.exists():
            args += ["--ro-bind", str(path), str(path)]
    return tuple(args)
