"""On which file systems a bus file may lie, decided by the name that the kernel's list of mounts has for it.

SQLite needs locks that every process sees and memory that every process shares. Between machines neither is to be had,
and a file system that only pretends damages the file without a word; so what is not known to be local is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BETWEEN_MACHINES = {
    "nfs": "NFS",
    "nfs4": "NFS",
    "cifs": "SMB (CIFS)",
    "smb2": "SMB",
    "smb3": "SMB",
    "smbfs": "SMB",
    "9p": "9p",
    "virtiofs": "virtiofs (a folder of the host)",
    "vboxsf": "VirtualBox shared folders",
    "vmhgfs": "VMware shared folders",
    "prl_fs": "Parallels shared folders",
    "ceph": "CephFS",
    "glusterfs": "GlusterFS",
    "afs": "AFS",
    "openafs": "AFS",
    "coda": "Coda",
    "lustre": "Lustre",
    "gpfs": "IBM Storage Scale (GPFS)",
    "beegfs": "BeeGFS",
    "orangefs": "OrangeFS",
    "pvfs2": "OrangeFS",
    "ocfs2": "OCFS2",
    "gfs2": "GFS2",
    "ncpfs": "NCP",
    "davfs": "WebDAV",
    "fuse.sshfs": "SSHFS",
    "fuse.glusterfs": "GlusterFS",
    "fuse.ceph": "CephFS",
    "fuse.ceph-fuse": "CephFS",
    "fuse.s3fs": "S3",
    "fuse.mount-s3": "S3",
    "fuse.gcsfuse": "Google Cloud Storage",
    "fuse.rclone": "rclone",
    "fuse.davfs": "WebDAV",
    "fuse.grpcfuse": "a folder of the host (Docker Desktop)",
    "fuse.vmhgfs-fuse": "VMware shared folders",
}
_LOCAL_FUSE = frozenset({"fuseblk", "fuse.fuse-overlayfs"})
"""A disk of this machine, and the layers of a container without root."""
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True, slots=True)
class Mount:
    point: str
    kind: str
    """As the kernel names it, such as `ext4`, `nfs4`, `fuse.sshfs`."""
    source: str


def network_name(kind: str) -> str | None:
    """What the file system is called when a bus file must not lie on it; None when it may.

    overlay and tmpfs may: both belong to one kernel, which keeps the locks. FUSE may not, but for what is known.
    """
    if kind in _BETWEEN_MACHINES:
        return _BETWEEN_MACHINES[kind]
    if kind.partition(".")[0] == "fuse" and kind not in _LOCAL_FUSE:
        return f"FUSE ({kind})"
    return None


def is_in_memory(kind: str) -> bool:
    """Whether everything on it is gone with the machine's power."""
    return kind in _IN_MEMORY


def read_mounts(mountinfo: str) -> dict[int, Mount]:
    """/proc/<pid>/mountinfo (proc(5)) by the ids of its mounts, in the order they were made."""
    found: dict[int, Mount] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if "-" in fields:
            kind, source = fields[fields.index("-") + 1 :][:2]
            found[int(fields[0])] = Mount(_unescaped(fields[4]), kind, _unescaped(source))
    return found


def mount_by_name(mounts: Mapping[int, Mount], path: Path) -> Mount | None:
    """The mount that an absolute path leads into, if none of its folders is a link."""
    around = [mount for mount in mounts.values() if path.is_relative_to(mount.point)]
    return max(reversed(around), key=lambda mount: len(Path(mount.point).parts), default=None)


def mount_of(path: Path) -> Mount | None:
    """The mount that a path, or what there is of it, lies on; None where the system does not tell.

    A server that is away lets whoever touches its files wait for ever, so first only the name is gone by. O_PATH opens
    nothing: closing such a descriptor leaves the locks of who has the file open.
    """
    try:
        mounts = read_mounts(Path("/proc/self/mountinfo").read_text())
        named = mount_by_name(mounts, path.absolute())
        if named is not None and network_name(named.kind):
            return named
        there = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
        descriptor = os.open(there, os.O_PATH | os.O_CLOEXEC)
        try:
            told = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
        finally:
            os.close(descriptor)
    except OSError:
        return None
    found = re.search(r"^mnt_id:\s*(\d+)$", told, re.MULTILINE)
    return None if found is None else mounts.get(int(found[1]))


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
