"""What a jailed child can reach, each with the same probe outside of the jail as its control."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from towline.jail import JAIL_UID, Mount, jail, python

PYTHON = "/usr/bin/python3"
UID = JAIL_UID + 900


def jailed(code: str, *arguments: str, mounts: Sequence[Mount] = (), network: bool = False) -> str:
    argv = jail([PYTHON, "-S", "-c", code, *arguments], mounts=mounts, network=network, uid=UID)
    return subprocess.run(argv, check=False, env={}, capture_output=True, text=True, timeout=20).stdout


def outside(code: str, *arguments: str) -> str:
    argv = [PYTHON, "-S", "-c", code, *arguments]
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=20).stdout


READ = "import sys; print(open(sys.argv[1], 'rb').read(64))"
CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2); print('connected')"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other uids may enter, unlike pytest's own, so that only the jail stands in the way."""
    with tempfile.TemporaryDirectory(prefix="towline-jail-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


def test_files_of_the_host_are_not_there(folder: Path) -> None:
    (folder / "secret").write_text("token")
    for file in ("/etc/shadow", f"/proc/{os.getpid()}/environ", str(folder / "secret")):
        assert outside(READ, file), f"the control must read {file}"
        assert jailed(READ, file) == ""


def test_a_mounted_file_is_readable_and_not_writable(folder: Path) -> None:
    (folder / "shown").write_text("hello")
    (folder / "shown").chmod(0o666)
    mount = Mount(folder / "shown", "/given/shown")
    assert jailed(READ, "/given/shown", mounts=[mount]) == "b'hello'\n"
    write = "open('/given/shown', 'w').write('x'); print('written')"
    assert jailed(write, mounts=[mount]) == ""
    assert jailed(write, mounts=[Mount(folder / "shown", "/given/shown", writable=True)]) == "written\n"


def test_a_port_of_the_host_is_out_of_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert outside(CONNECT, port) == "connected\n"
        assert jailed(CONNECT, port, network=True) == "connected\n"
        assert jailed(CONNECT, port) == ""


def test_processes_of_the_host_are_not_seen() -> None:
    count = "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))"
    assert int(jailed(count)) <= 3 < int(outside(count))


def test_the_environment_is_only_what_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    names = "import os; print(sorted(os.environ))"
    assert "SECRET_TOKEN" in outside(names)
    argv = jail([PYTHON, "-S", "-c", names], env={"GIVEN": "1"}, uid=UID)
    shown = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout
    assert shown == "['GIVEN', 'HOME', 'LANG', 'LC_CTYPE', 'PATH', 'PWD']\n" or "SECRET_TOKEN" not in shown


def test_it_runs_as_its_own_uid_without_capabilities() -> None:
    status = "import os; print(os.getresuid(), [l.split()[1] for l in open('/proc/self/status') if l[:3] == 'Cap'])"
    assert jailed(status) == f"({UID}, {UID}, {UID}) {['0' * 16] * 5}\n"


def test_it_cannot_become_root_again() -> None:
    assert jailed("import os; os.setuid(0); print('root')") == ""


def test_scratch_folders_are_writable_and_its_own() -> None:
    code = "import os\nfor top in ('/tmp', '/dev/shm'): open(top + '/towline-probe', 'w').close()\nprint('written')"
    assert jailed(code) == "written\n"
    assert not Path("/tmp/towline-probe").exists()
    assert not Path("/dev/shm/towline-probe").exists()


def test_a_named_scratch_folder_is_writable_up_to_its_size_and_gone_afterwards() -> None:
    code = "import sys\nopen('/workspace/x', 'wb').write(bytes(int(sys.argv[1])))\nprint('written')"

    def write(count: int) -> str:
        argv = jail([PYTHON, "-S", "-c", code, str(count)], uid=UID, scratch=("/workspace",), scratch_bytes=1 << 20)
        return subprocess.run(argv, check=False, env={}, capture_output=True, text=True, timeout=20).stdout

    assert write(1000) == "written\n"
    assert write(2 << 20) == ""
    assert not Path("/workspace").exists()


def test_public_parts_of_etc_are_readable() -> None:
    assert jailed("import os; print('alternatives' in os.listdir('/etc'))") == "True\n"


def test_this_interpreter_runs_inside_with_the_named_modules_only() -> None:
    prefix, mounts = python("towline")
    code = "import towline.errors, importlib.util as u; print(u.find_spec('pydantic'))"
    argv = jail([*prefix, "-S", "-c", code], mounts=mounts, env={"PYTHONPATH": "/modules"}, uid=UID)
    done = subprocess.run(argv, check=False, env={}, capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.returncode) == ("None\n", 0), done.stderr


def test_what_it_started_dies_with_it() -> None:
    code = "import os, sys, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\nprint('started', flush=True)"
    argv = jail([PYTHON, "-S", "-c", code], uid=UID)
    # The sleeper holds the pipe: communicate() only returns because it is dead.
    assert subprocess.run(argv, check=True, env={}, capture_output=True, text=True, timeout=20).stdout == "started\n"
