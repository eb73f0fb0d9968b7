"""`towline bus export`, `import` and `copy`, as typed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest

from towline import flow
from towline.bus.open import open_bus
from towline.bus.port import NewRecord, TopicPartition
from towline.errors import BadInput
from towline.events import ChangeCreated
from towline_cli import instances
from towline_cli.move import chosen

Write = Callable[..., Awaitable[None]]
pytestmark = pytest.mark.whole_service
REPO = "localhost/app"
AT = TopicPartition(flow.CHANGES.topic, 5)


def towline(*command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "towline_cli.main", *command], input=given, capture_output=True, check=False
    )


@pytest.fixture
async def told(shop: Path, log_of: Write) -> Path:
    """An instance with some history; returns its bus file."""
    changes = [
        ChangeCreated(repo=REPO, change=f"{REPO}!{topic}", target="main", head="a" * 40) for topic in ("one", "two")
    ]
    await log_of(shop, *changes)
    bus = await open_bus(instances.bus_of(shop))
    await bus.publish([NewRecord(AT.topic, "k", b"v%d" % n, partition=AT.partition) for n in range(40)])
    await bus.close()
    return shop.parent / "bus.db"


async def history(url: str) -> list[tuple[str, bytes | None, int]]:
    bus = await open_bus(url)
    found = [await bus.read(TopicPartition(AT.topic, n)) for n in range(flow.PARTITIONS)]
    await bus.close()
    return [(record.key, record.value, record.timestamp_ms) for records in found for record in records]


async def test_an_instance_is_exported_and_imported_into_a_new_bus(told: Path, tmp_path: Path) -> None:
    before = sha256(told.read_bytes()).hexdigest()
    new = f"sqlite:///{tmp_path}/new.db"

    exported = towline("bus", "export", "log.gz")
    assert sha256(told.read_bytes()).hexdigest() == before, "who exports writes nothing to the bus"
    imported = towline("bus", "import", "--bus", new, "log.gz")

    assert (exported.returncode, exported.stderr) == (0, b"exported 42 records to log.gz\n")
    assert imported.stderr == b"imported 42 records; services go on from where they were\n"
    assert await history(new) == await history(f"sqlite:///{told}")
    again = towline("bus", "import", "--bus", new, "log.gz")
    assert again.stderr.startswith(b"imported 42 records, 42 of them were there")


async def test_a_log_goes_through_a_pipe_and_straight_from_bus_to_bus(told: Path, tmp_path: Path) -> None:
    piped, copied = f"sqlite:///{tmp_path}/piped.db", f"sqlite:///{tmp_path}/copied.db"

    exported = towline("bus", "export", "-")
    imported = towline("bus", "import", "--bus", piped, "-", given=exported.stdout)
    copy = towline("bus", "copy", f"sqlite:///{told}", copied)

    assert imported.returncode == copy.returncode == 0, imported.stderr + copy.stderr
    assert await history(piped) == await history(copied) == await history(f"sqlite:///{told}")


async def test_a_damaged_file_changes_nothing_on_the_bus(told: Path, tmp_path: Path) -> None:
    towline("bus", "export", "log.jsonl")
    lines = Path("log.jsonl").read_bytes().splitlines(keepends=True)
    Path("log.jsonl").write_bytes(b"".join(lines[:-4]))

    refused = towline("bus", "import", "--bus", f"sqlite:///{tmp_path}/new.db", "log.jsonl")

    assert refused.returncode == 2
    assert refused.stderr.decode().startswith(
        f"towline: log.jsonl:{len(lines) - 3}: the log is cut here: expected more"
    )
    assert not (tmp_path / "new.db").exists()


async def test_an_export_that_fails_leaves_no_file_and_touches_no_other(told: Path) -> None:
    Path("mine.gz").write_text("mine")
    os.truncate(told, told.stat().st_size // 2)

    failed, there = towline("bus", "export", "log.gz"), towline("bus", "export", "mine.gz")

    assert failed.returncode == there.returncode == 2
    assert b"is damaged" in failed.stderr
    assert not Path("log.gz").exists()
    assert b"mine.gz is there already" in there.stderr
    assert Path("mine.gz").read_text() == "mine"


async def test_the_way_on_that_a_damaged_file_is_refused_with_works(told: Path, tmp_path: Path) -> None:
    leaf = told.read_bytes().find(b"v37") // 4096
    with told.open("r+b") as file:
        file.seek(leaf * 4096 + 8)
        file.write(b"\xa5" * 2000)
    new = f"sqlite:///{tmp_path}/new.db"

    refused = towline("bus", "export", "log.gz")
    command = refused.stderr.decode().partition("towline bus export ")[2].partition(", then")[0].split()
    saved = towline("bus", "export", *command)
    plain = towline("bus", "import", "--bus", new, "saved.gz")
    taken = towline("bus", "import", "--although-damaged", "--bus", new, "saved.gz")

    assert "lost: towline." in saved.stderr.decode()
    assert plain.returncode == 2
    assert "exported from a damaged file" in plain.stderr.decode()
    assert taken.returncode == 0, taken.stderr


def test_topics_are_chosen_so_that_what_they_say_of_each_other_holds() -> None:
    assert len(chosen(())) == len(flow.topics())
    assert [topic.name for topic in chosen([flow.CHANGES.topic])] == [flow.CHANGES.topic]
    with pytest.raises(BadInput, match=r"the state of notifier says how far it has read towline.artifacts"):
        chosen([flow.state_of("notifier"), flow.inbox_of("notifier")])
    with pytest.raises(BadInput, match=r"there is no topic 'towline.chnages'; there are: towline.changes"):
        chosen(["towline.chnages"])


async def test_what_is_not_there_or_the_same_is_refused(home: Path) -> None:
    nothing = towline("bus", "export", "--bus", f"sqlite:///{home}/none.db", "log.gz")
    same = towline("bus", "copy", "sqlite:///a.db", "sqlite:///a.db")

    assert b"there is no bus file" in nothing.stderr
    assert b"both are the same bus" in same.stderr
