"""The jail of a build: who it is, what it sees, and how its command line is made.

A build needs what no other hostile child needs: many user ids and the right to mount. It gets both in a user
namespace of its own, mapped to an unprivileged user and that user's subordinate ids. What must hold inside:

- root is `user` outside, every other id is one of the range that `/etc/subuid` gives that user and nobody else;
- its own pid, ipc, uts, cgroup and network namespace, the latter with nothing but loopback;
- an allow-list of mounts: programs, a made-up `/etc`, what the caller names; no `/sys`, no `/var`, no `/root`, no home;
- an empty environment; no new privileges; no capability outside of its namespace.

Two tools do it, one inside the other: `bwrap`, as root, makes the namespaces and mounts (it alone may reach folders
that the user may not); `nsenter` steps into the user namespace, after which nothing of root is left. `ENTER` then makes
a device folder that the namespace owns, because the builder remounts it and may not remount bwrap's.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from towline.errors import Permanent
from towline.jail import Mount, NoJail

MIN_IDS = 65_535
"""Ids beside root that an image may own files as; fewer, and unpacking a base fails half-way."""
_KEPT = ("CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN")
_SYSTEM = ("bin", "sbin", "lib", "lib64", "lib32")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
PARTS = {
    "buildah": "buildah",
    "bwrap": "bubblewrap",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
}

ENTER = f"""set -e
mkdir /tmp/.dev
mount -t tmpfs -o mode=0755,size=1m dev /tmp/.dev
for name in {" ".join(_DEVICES)}; do : > /tmp/.dev/$name; mount --bind /dev/$name /tmp/.dev/$name; done
mkdir /tmp/.dev/shm /tmp/.dev/pts
ln -s /proc/self/fd /tmp/.dev/fd
ln -s /proc/self/fd/0 /tmp/.dev/stdin; ln -s /proc/self/fd/1 /tmp/.dev/stdout; ln -s /proc/self/fd/2 /tmp/.dev/stderr
mount --move /tmp/.dev /dev
rmdir /tmp/.dev
exec "$@"
"""
"""Runs as the namespace's root before the command it is given."""

_ETC = {
    "passwd": "root:x:0:0:root:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n",
    "resolv.conf": "",
    "ignore": "",
    "enter.sh": ENTER,
    "containers/policy.json": '{"default": [{"type": "insecureAcceptAnything"}]}\n',
    "containers/registries.conf": "unqualified-search-registries = []\n",
    "containers/storage.conf": "",
}
"""All of `/etc` inside. There is no registry to trust or distrust: images come from folders checked before."""


@dataclass(frozen=True, slots=True)
class BuildUser:
    """Who a build is outside of its namespace; `first_uid` and `first_gid` begin its `count` subordinate ids."""

    uid: int
    gid: int
    first_uid: int
    first_gid: int
    count: int

    @property
    def uid_map(self) -> str:
        return f"0 {self.uid} 1\n1 {self.first_uid} {self.count}\n"

    @property
    def gid_map(self) -> str:
        return f"0 {self.gid} 1\n1 {self.first_gid} {self.count}\n"


def build_user(name: str) -> BuildUser:
    """Raises NoJail with what to do when the user, its ranges or this process's rights are not enough."""
    if os.geteuid() != 0:
        raise NoJail("images are built in a namespace that only root can set up; run the image-builder as root")
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise NoJail(
            f"there is no user {name}, which builds run as; `useradd --system --add-subids-for-system {name}` makes it"
        ) from None
    if account.pw_uid == 0:
        raise NoJail(f"{name} is root; builds run as an unprivileged user")
    (first_uid, uids), (first_gid, gids) = (_range(Path("/etc", file), account) for file in ("subuid", "subgid"))
    return BuildUser(account.pw_uid, account.pw_gid, first_uid, first_gid, min(uids, gids))


def _range(file: Path, account: pwd.struct_passwd) -> tuple[int, int]:
    lines = file.read_text().splitlines() if file.exists() else []
    for fields in (line.strip().split(":") for line in lines):
        if len(fields) == 3 and fields[0] in (account.pw_name, str(account.pw_uid)) and int(fields[2]) >= MIN_IDS:
            return int(fields[1]), int(fields[2])
    raise NoJail(
        f"{file} gives {account.pw_name} no range of at least {MIN_IDS} ids; "
        f"`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {account.pw_name}` adds one"
    )


@cache
def part(name: str) -> str:
    """Path of an installed tool. Raises NoJail that names the Debian package."""
    path = shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        raise NoJail(f"{name} is not installed; no image is built without it (Debian: {PARTS.get(name, name)})")
    return path


async def user_namespace(user: BuildUser) -> int:
    """A new user namespace, as an open descriptor that the caller closes; it lives as long as someone holds it."""
    process = await asyncio.create_subprocess_exec(
        *(part("unshare"), "--user", "--", "/bin/sh", "-c", "echo; read end"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        user=user.uid,
        group=user.gid,
        extra_groups=[],
        env={},
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if not await process.stdout.readline():
            raise Permanent(
                "this kernel makes no user namespaces; builds cannot be contained (user.max_user_namespaces)"
            )
        Path(f"/proc/{process.pid}/uid_map").write_text(user.uid_map)
        Path(f"/proc/{process.pid}/gid_map").write_text(user.gid_map)
        return os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        process.stdin.close()
        await process.wait()


def write_etc(folder: Path) -> None:
    """The made-up `/etc`, once per process; builds see it read-only."""
    for name, text in _ETC.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        path.write_text(text)
        path.chmod(0o644)
        path.parent.chmod(0o755)


def contained(
    argv: Sequence[str], *, namespace: int, etc: Path, mounts: Sequence[Mount], env: Mapping[str, str] | None = None
) -> list[str]:
    """The command that runs `argv` in the jail; `namespace` must be passed on to the child under its own number."""
    line = [part("bwrap"), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    line += ["--die-with-parent", "--new-session", "--hostname", "build", "--clearenv", "--cap-drop", "ALL"]
    for capability in _KEPT:
        line += ["--cap-add", capability]
    line += ["--ro-bind", "/usr", "/usr"]
    for path in (Path("/", name) for name in _SYSTEM):
        if path.is_symlink():
            line += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            line += ["--ro-bind", str(path), str(path)]
    line += ["--proc", "/proc", "--dev", "/dev", "--perms", "0555", "--dir", "/sys"]
    for scratch in ("/tmp", "/run", "/var/tmp", "/home"):  # noqa: S108 - the jail's own
        line += ["--perms", "1777", "--tmpfs", scratch]
    line += ["--ro-bind", str(etc), "/etc"]
    for parent in _parents(mounts):
        line += ["--perms", "0755", "--dir", parent]  # bwrap's own would be closed to the user
    for mount in mounts:
        line += ["--bind" if mount.writable else "--ro-bind", str(mount.source), mount.target]
    base = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/home", "LANG": "C.UTF-8"}
    # The first variable tells the builder that its namespace is made already and that it is not the host's root.
    told = {"_CONTAINERS_USERNS_CONFIGURED": "done", "BUILDAH_ISOLATION": "chroot", "TMPDIR": "/build/tmp"}
    for name, value in {**base, **told, **(env or {})}.items():
        line += ["--setenv", name, value]
    inside = [part("nsenter"), f"--user=/proc/self/fd/{namespace}", part("unshare"), "--mount", "--"]
    return [*line, "--chdir", "/", "--", *inside, "/bin/sh", "/etc/enter.sh", *argv]


def _parents(mounts: Sequence[Mount]) -> list[str]:
    """Folders to make for mount points, outermost first; below `/etc` and `/run` they are there."""
    parents = {up for mount in mounts for up in Path(mount.target).parents}
    return sorted(str(up) for up in parents if up.parts[1:2] not in ((), ("etc",), ("run",)))
