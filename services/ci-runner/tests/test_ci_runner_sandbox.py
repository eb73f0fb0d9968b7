"""What hostile jobs try, on the real sandbox as root. Beside it each test shows that the try works uncontained."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from towline import snapshot
from towline.cgroup import Hierarchy, hierarchy
from towline.snapshot import Entry
from towline_ci_runner.sandbox.sandbox import Done, Order
from towline_ci_runner.sandbox.stock import Stock
from towline_ci_runner.settings import JobLimits

pytestmark = pytest.mark.whole_service

PATH = "/usr/local/bin:/usr/bin:/bin"
FREE = JobLimits(memory_mib=1024, processes=400, cpus=4, log_kib=64, output_mib=2)


def raw_archive(entries: Sequence[Entry]) -> bytes:
    """As `snapshot.pack`, without its refusals."""
    parts = [b"towline-snapshot 1\n"]
    for entry in entries:
        parts.append(f"{entry.mode} {len(entry.path)} {len(entry.content)}\n{entry.path}".encode() + entry.content)
    return zlib.compress(b"".join(parts))


def order(script: str, entries: Sequence[Entry] = (), *, timeout: float = 20.0, tree: str | None = None) -> Order:
    return Order(
        script=script,
        tree=tree or snapshot.tree_id(entries),
        archive=raw_archive(entries),
        env={"PATH": PATH, "HOME": "/home", "GIVEN": "1"},
        timeout=timeout,
    )


@pytest.fixture
def groups() -> Iterator[Hierarchy]:
    found = hierarchy(f"towline-test-sandbox-{os.getpid()}")
    assert found.weakness is None, found.weakness
    yield found
    found.close()


@asynccontextmanager
async def stocked(groups: Hierarchy, limits: JobLimits = FREE, ahead: int = 0) -> AsyncIterator[Stock]:
    stock = Stock(groups, limits, ahead)
    try:
        yield stock
    finally:
        await stock.close()
    assert not any(folder.is_dir() for top in groups.tops.values() for folder in top.iterdir())


async def jailed(groups: Hierarchy, job: Order | str, limits: JobLimits = FREE) -> Done:
    async with stocked(groups, limits) as stock:
        sandbox = await stock.take()
        try:
            return await sandbox.run(order(job) if isinstance(job, str) else job, asyncio.Event())
        finally:
            await stock.gone(sandbox)


def outside(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["/bin/sh", "-e", "-c", script], cwd=folder, env={"PATH": PATH}, check=False, capture_output=True, timeout=20
    )


def running(argument: str) -> list[int]:
    """Processes of this machine that have the argument on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if argument.encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


async def until(holds: Callable[[], object]) -> None:
    """Something outside of this process that no event tells of."""
    while not holds():  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(0)


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of the host with a secret in its environment."""
    with subprocess.Popen(["/bin/sleep", "600"], env={"A_SECRET": "shown"}) as process:
        yield process.pid
        process.kill()


async def test_lines_run_in_the_tree_and_stop_at_the_first_that_fails(groups: Hierarchy) -> None:
    entries = [Entry("folder/file", snapshot.FILE, b"content"), Entry("run", snapshot.EXECUTABLE, b"#!/bin/sh\npwd\n")]
    done = await jailed(groups, order("cat folder/file; ./run\necho $GIVEN $HOME\nfalse\necho never", entries))
    assert (done.log, done.exit_code) == (b"content/workspace\n1 /home\n", 1)


async def test_what_it_writes_stays_inside_and_is_writable_there(groups: Hierarchy) -> None:
    done = await jailed(groups, "for at in /workspace /home /tmp /dev/shm; do echo x > $at/probe; done; ls /workspace")
    assert (done.log, done.exit_code) == (b"probe\n", 0)
    assert not Path("/tmp/probe").exists()


@pytest.mark.parametrize("script", ["cat /etc/shadow", "ls /root", "ls /var/lib"])
async def test_files_of_the_host_are_not_there(groups: Hierarchy, tmp_path: Path, script: str) -> None:
    assert outside(script, tmp_path).returncode == 0
    done = await jailed(groups, script)
    assert done.exit_code != 0
    assert b"root:" not in done.log


async def test_the_kubeconfig_is_not_there(groups: Hierarchy, tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("a-token")
    script = f"cat {tmp_path}/kubeconfig"
    assert outside(script, tmp_path).stdout == b"a-token"
    done = await jailed(groups, script)
    assert (done.exit_code, b"a-token" in done.log) == (1, False)


async def test_environments_and_processes_of_the_host_are_not_seen(
    groups: Hierarchy, tmp_path: Path, victim: int
) -> None:
    script = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' || true"
    assert b"A_SECRET=shown" in outside(script, tmp_path).stdout
    assert outside(f"kill -0 {victim}", tmp_path).returncode == 0
    done = await jailed(groups, f"{script}\ncat /proc/1/environ || true\nls /proc | grep -c '^[0-9]'")
    assert b"A_SECRET" not in done.log
    assert int(done.log.split()[-1]) <= 6
    assert (await jailed(groups, f"kill -0 {victim}")).exit_code != 0


async def test_its_environment_is_what_was_ordered(groups: Hierarchy) -> None:
    done = await jailed(groups, "env | sort")
    assert done.log == f"GIVEN=1\nHOME=/home\nPATH={PATH}\nPWD=/workspace\n".encode()


async def test_a_listening_port_of_the_host_is_out_of_reach(groups: Hierarchy, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = f"python3 -S -c \"import socket; socket.create_connection(('127.0.0.1', {port})); print('connected')\""
        assert outside(script, tmp_path).stdout == b"connected\n"
        done = await jailed(groups, script)
        assert (b"connected" in done.log, b"ConnectionRefused" in done.log) == (False, True)


async def test_nothing_of_the_host_can_be_written(groups: Hierarchy, tmp_path: Path) -> None:
    script = f"echo x > {tmp_path}/probe"
    assert outside(script, tmp_path).returncode == 0
    (tmp_path / "probe").unlink()
    for target in (tmp_path / "probe", "/etc/probe", "/usr/probe", "/modules/probe", "/probe"):
        assert (await jailed(groups, f"echo x > {target}")).exit_code != 0
    assert not (tmp_path / "probe").exists()


async def test_it_has_an_unprivileged_uid_of_its_own_and_no_capability(groups: Hierarchy) -> None:
    script = "id -u; id -G; grep -E '^(Cap|NoNewPrivs)' /proc/self/status"
    uid, group_ids, *rest = (await jailed(groups, script)).log.decode().split("\n")
    assert uid == group_ids
    assert int(uid) >= 64_100
    assert {line.split()[1] for line in rest if line} == {"0" * 16, "1"}
    async with stocked(groups) as stock:
        one, two = await stock.take(), await stock.take()
        assert one.uid != two.uid
        await stock.gone(one)
        await stock.gone(two)


FORKS = """python3 -S -c "
import os, signal
count = 0
try:
    for _ in range(150):
        if os.fork() == 0:
            signal.pause()
        count += 1
except BlockingIOError:
    pass
print(count, flush=True)
os._exit(0 if count == 150 else 3)
"
"""


async def test_a_fork_bomb_stays_within_its_limit_and_is_ended(groups: Hierarchy) -> None:
    assert (await jailed(groups, FORKS)).exit_code == 0
    done = await jailed(groups, FORKS, FREE.model_copy(update={"processes": 40}))
    assert (done.exit_code, done.exceeded) == (3, "the limit of 40 processes")


@pytest.mark.parametrize("script", ["python3 -S -c 'bytearray(200 << 20)'", "head -c 200M /dev/zero > large; ls large"])
async def test_memory_is_limited_and_files_count_as_memory(groups: Hierarchy, script: str) -> None:
    assert (await jailed(groups, script)).exit_code == 0
    done = await jailed(groups, script, FREE.model_copy(update={"memory_mib": 64}))
    assert done.exit_code != 0
    assert done.exceeded == "the memory limit of 64 MiB" or b"No space left" in done.log


async def test_endless_output_is_ended_and_only_its_ends_are_kept(groups: Hierarchy) -> None:
    finite = await jailed(groups, "echo first; yes | head -c 1000000; echo last")
    assert (finite.exit_code, finite.ended) == (0, None)
    assert finite.log.startswith(b"first\n")
    assert finite.log.endswith(b"last\n")
    assert b"bytes are left out" in finite.log
    assert len(finite.log) < 65 * 1024
    endless = await jailed(groups, "yes")
    assert (endless.exit_code, endless.ended) == (None, "output")


async def test_a_daemon_does_not_outlive_its_job(groups: Hierarchy, tmp_path: Path) -> None:
    script = "(setsid sleep %s >/dev/null 2>&1 </dev/null &)\nwhile ! grep -qs %s /proc/[0-9]*/cmdline; do :; done"
    assert outside(script % ("61001.5", "61001.5"), tmp_path).returncode == 0
    left = running("61001.5")
    assert left
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert (await jailed(groups, script % ("61002.5", "61002.5"))).exit_code == 0
    assert running("61002.5") == []


async def test_a_job_over_its_time_is_ended_with_all_its_processes(groups: Hierarchy) -> None:
    done = await jailed(groups, order("echo begun; sleep 61003.5 & sleep 61003.5", timeout=0.3))
    assert (done.ended, done.exit_code, done.log) == ("timeout", None, b"begun\n")
    assert running("61003.5") == []


async def test_a_job_that_closes_its_output_is_still_seen_to_its_end(groups: Hierarchy) -> None:
    done = await jailed(groups, "exec >/dev/null 2>&1; sleep 0.05; exit 7")
    assert (done.exit_code, done.ended) == (7, None)
    late = await jailed(groups, order("exec >/dev/null 2>&1; sleep 61004.5", timeout=0.2))
    assert (late.exit_code, late.ended) == (None, "timeout")


async def test_a_job_that_nobody_wants_any_more_is_ended(groups: Hierarchy) -> None:
    async with stocked(groups) as stock:
        sandbox, cancelled = await stock.take(), asyncio.Event()
        task = asyncio.create_task(sandbox.run(order("sleep 61005.5"), cancelled))
        await until(lambda: running("61005.5"))
        cancelled.set()
        assert (await task).ended == "cancelled"
        assert running("61005.5") == []
        await stock.gone(sandbox)


async def test_what_a_dead_runner_left_is_ended_by_the_next(groups: Hierarchy) -> None:
    stock = Stock(groups, FREE, 0)
    sandbox = await stock.take()
    task = asyncio.create_task(sandbox.run(order("sleep 61006.5"), asyncio.Event()))
    await until(lambda: running("61006.5"))
    hierarchy(f"towline-test-sandbox-{os.getpid()}").sweep()
    assert running("61006.5") == []
    await task
    await stock.gone(sandbox)


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([Entry("out", snapshot.SYMLINK, b"/etc/shadow")], "absolute path"),
        ([Entry("a/out", snapshot.SYMLINK, b"../../etc/shadow")], "out of the tree"),
        ([Entry("../x", snapshot.FILE, b"")], "could leave the tree"),
        ([Entry(".git/config", snapshot.FILE, b"")], ".git"),
    ],
)
async def test_a_tree_that_leads_out_is_refused(groups: Hierarchy, entries: list[Entry], why: str) -> None:
    done = await jailed(groups, order("ls -la", entries))
    assert done.refused is not None
    assert why in done.refused
    assert (done.started, done.exit_code) == (None, None)


async def test_a_link_inside_of_the_tree_is_followed(groups: Hierarchy) -> None:
    entries = [Entry("link", snapshot.SYMLINK, b"target"), Entry("target", snapshot.FILE, b"content")]
    assert (await jailed(groups, order("cat link", entries))).log == b"content"


async def test_a_snapshot_of_another_tree_is_refused(groups: Hierarchy) -> None:
    done = await jailed(groups, order("true", [Entry("x", snapshot.FILE, b"x")], tree="0" * 40))
    assert "expected " + "0" * 40 in (done.refused or "")


async def test_a_large_tree_arrives_whole(groups: Hierarchy) -> None:
    content = os.urandom(4 << 20)
    done = await jailed(groups, order("wc -c < big", [Entry("big", snapshot.FILE, content)]))
    assert done.log.strip() == str(len(content)).encode()


async def test_the_job_inherits_no_descriptor_of_its_launcher(groups: Hierarchy) -> None:
    done = await jailed(groups, "for fd in /proc/$$/fd/*; do readlink $fd || true; done")
    kinds = [line.partition(":")[0] for line in done.log.decode().split("\n") if line]
    assert sorted(kinds) == ["/dev/null", "/home/.job", "pipe", "pipe"]


async def test_sandboxes_are_ready_before_they_are_needed_and_each_is_used_once(groups: Hierarchy) -> None:
    async with stocked(groups, ahead=1) as stock:
        stock.fill()
        await stock.filled()
        first = await stock.take()
        assert (await first.run(order("echo x > /tmp/probe"), asyncio.Event())).exit_code == 0
        await stock.gone(first)
        await stock.filled()
        second = await stock.take()
        assert second is not first
        assert (await second.run(order("ls /tmp"), asyncio.Event())).log == b""
        await stock.gone(second)


async def test_a_sandbox_that_died_while_it_waited_is_replaced(groups: Hierarchy) -> None:
    async with stocked(groups, ahead=1) as stock:
        stock.fill()
        await stock.filled()
        for group in groups.tops["pids"].iterdir() if "pids" in groups.tops else ():
            if group.is_dir():
                for pid in (group / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):  # it went with one killed before
                        os.kill(int(pid), signal.SIGKILL)
        await until(lambda: not stock.ready)
        sandbox = await stock.take()
        assert (await sandbox.run(order("echo here"), asyncio.Event())).log == b"here\n"
        await stock.gone(sandbox)


def test_this_file_runs_as_root_where_containment_matters_most() -> None:
    assert os.geteuid() == 0, "run the unit tests as root, as `make test` does"
    assert sys.platform == "linux"
