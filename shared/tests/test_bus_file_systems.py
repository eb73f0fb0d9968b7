"""Where a bus file may lie: the table, and real mounts in a namespace of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from towline.bus.open import open_bus
from towline.bus.sqlite.file_systems import Mount, is_in_memory, mount_by_name, mount_of, network_name, read_mounts
from towline.bus.sqlite.place import Place, prepare
from towline.errors import BadInput, Permanent

MOUNTINFO = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
63 27 0:39 / /srv/a\\040b rw,relatime shared:5 master:2 - fuse.sshfs ann@host:/x\\134y rw,user_id=0
64 27 0:40 / /net rw,relatime - nfs4 host:/export rw,vers=4.2
"""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("nfs", "NFS"),
        ("nfs4", "NFS"),
        ("cifs", "SMB (CIFS)"),
        ("smb3", "SMB"),
        ("9p", "9p"),
        ("ceph", "CephFS"),
        ("fuse.ceph-fuse", "CephFS"),
        ("fuse.sshfs", "SSHFS"),
        ("fuse.glusterfs", "GlusterFS"),
        ("afs", "AFS"),
        ("lustre", "Lustre"),
        ("gfs2", "GFS2"),
        ("virtiofs", "virtiofs (a folder of the host)"),
        ("fuse", "FUSE (fuse)"),
        ("fuse.something", "FUSE (fuse.something)"),
    ],
)
def test_between_machines_or_unknown_in_user_space_is_refused(kind: str, name: str) -> None:
    assert network_name(kind) == name


@pytest.mark.parametrize(
    "kind",
    ["ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "fuseblk", "fuse.fuse-overlayfs", "fused", "new"],
)
def test_what_one_kernel_keeps_is_taken(kind: str) -> None:
    assert network_name(kind) is None


def test_mounts_are_read_with_names_as_they_are() -> None:
    assert read_mounts(MOUNTINFO)[63] == Mount("/srv/a b", "fuse.sshfs", "ann@host:/x\\y")
    assert read_mounts(MOUNTINFO)[64] == Mount("/net", "nfs4", "host:/export")


@pytest.mark.parametrize(
    ("path", "point"),
    [
        ("/net/x/bus.db", "/net"),
        ("/network/bus.db", "/"),
        ("/srv/a b", "/srv/a b"),
        ("/net/local/b/bus.db", "/net/local"),
    ],
)
def test_a_path_is_known_to_lead_into_a_mount_by_its_name(path: str, point: str) -> None:
    mounts = read_mounts(f"{MOUNTINFO}70 64 8:1 / /net/local rw - ext4 /dev/sdb rw\n")
    found = mount_by_name(mounts, Path(path))
    assert found is not None
    assert found.point == point


def test_of_two_mounts_on_one_point_the_later_one_counts() -> None:
    mounts = read_mounts(f"{MOUNTINFO}71 64 8:1 / /net rw - ext4 /dev/sdb rw\n")
    assert mount_by_name(mounts, Path("/net/bus.db")) == Mount("/net", "ext4", "/dev/sdb")


def test_the_mount_of_a_path_that_is_not_there_yet_is_that_of_its_nearest_folder(tmp_path: Path) -> None:
    assert mount_of(tmp_path / "not" / "yet" / "bus.db") == mount_of(tmp_path)
    assert mount_of(Path("/proc/self/status")) == Mount("/proc", "proc", "proc")
    assert is_in_memory("tmpfs")
    assert not is_in_memory("ext4")


async def test_the_url_says_how_the_file_is_opened(tmp_path: Path) -> None:
    bus = await open_bus(f"sqlite:///{tmp_path}/a%3Fb.db?network=accepted&transactions=single")
    await bus.close()

    assert (tmp_path / "a?b.db").exists()
    with pytest.raises(
        BadInput, match=r"unknown option 'network=yes': expected network=accepted or transactions=single"
    ):
        await open_bus(f"sqlite:///{tmp_path}/bus.db?network=yes")


OPEN = """
import asyncio, sys
from towline.bus.open import open_bus
from towline.bus.port import NewRecord, Topic
from towline.errors import TowlineError

async def main():
    try:
        bus = await open_bus(sys.argv[1])
    except TowlineError as error:
        print(type(error).__name__, error)
        return
    await bus.ensure([Topic("t", 1)])
    print("offset", *await bus.publish([NewRecord("t", "k", b"v")]))
    await bus.close()

asyncio.run(main())
"""

MOUNT_FUSE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
device = os.open("/dev/fuse", os.O_RDWR)
os.set_inheritable(device, True)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device
if libc.mount(b"ann@host:/x", sys.argv[1].encode(), b"fuse.sshfs", 0, options) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def in_namespace(tmp_path: Path, mount: str, *command: str) -> str:
    """What a command prints where `mount` was done, which nobody else sees."""
    run = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    done = subprocess.run(
        [*run, "sh", "-ec", f'{mount}\nexec "$@"', "-", *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.whole_service
def test_a_mount_of_sshfs_is_refused_before_a_file_is_made(tmp_path: Path) -> None:
    """The kernel's part of a real FUSE mount; nothing answers behind it, so whatever touched it would hang."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    said = in_namespace(
        tmp_path, ":", sys.executable, "-c", MOUNT_FUSE, str(folder), "-c", OPEN, f"sqlite:///{folder}/bus.db"
    )

    assert said.startswith(f"Permanent the bus file {folder}/bus.db would lie on SSHFS (mounted on {folder})")
    assert "use Kafka" in said


@pytest.mark.whole_service
def test_an_overlay_is_taken_and_a_read_only_file_system_is_not(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "whole"):
        (tmp_path / name).mkdir()
    overlay = "mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work whole"
    url = f"sqlite:///{tmp_path}/whole/bus.db"

    assert in_namespace(tmp_path, overlay, sys.executable, "-c", OPEN, url) == "offset 0\n"
    assert in_namespace(tmp_path, overlay, sys.executable, "-c", OPEN, url) == "offset 1\n"
    said = in_namespace(tmp_path, f"{overlay}\nmount -o remount,ro whole", sys.executable, "-c", OPEN, url)
    assert "is on a read-only file system: mount it for writing" in said


def test_a_file_of_another_user_is_refused_with_both_of_them(tmp_path: Path) -> None:
    """In a child that is somebody else; who runs this as a user takes the right to write away instead."""
    file = tmp_path / "bus.db"
    file.touch(mode=0o600)
    for folder in (*tmp_path.parents[:3], tmp_path):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(0o755)
    if os.geteuid() != 0:
        file.chmod(0o400)
    out, into = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            prepare(Place(file))
        except Permanent as error:
            os.write(into, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(into)
    with os.fdopen(out) as told:
        said = told.read()

    assert f"the bus file {file} may not be written by this user (uid " in said
    assert f"it belongs to uid {os.geteuid()}" in said
