"""The lab's decisions: addresses that nobody holds, records that survive, texts that parts are started with."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline_cli.lab import (
    base_image,
    build_user,
    command,
    debian,
    install,
    kube,
    kube_config,
    network,
    node,
    processes,
    record,
    registry,
)
from towline_cli.lab.cache import Cache, key_of
from towline_cli.lab.errors import AlreadyRunning, LabError
from towline_cli.lab.instance import Instance
from towline_cli.lab.layout import PORT_NAMES, Layout
from towline_cli.lab.progress import Silent

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)
INDICES = st.integers(min_value=0, max_value=network.SUBNETS - 1)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    ports = {name: 20000 + number for number, name in enumerate(PORT_NAMES)}
    return Layout("demo", tmp_path / "demo", Cache(tmp_path), 3, "tl-0123abcd", ports)


@given(st.sets(INDICES, max_size=network.SUBNETS - 1), SEEDS)
def test_a_free_index_overlaps_nothing_that_is_taken(taken: set[int], seed: int) -> None:
    held = [subnet for index in taken for subnet in (network.node_subnet(index), network.pod_subnet(index))]

    assert network.free_index(held, seed) not in taken


def test_when_every_subnet_is_taken_it_is_said() -> None:
    with pytest.raises(LabError, match=r"all subnets of 10\.213\.0\.0/16 are in use"):
        network.free_index([ipaddress.IPv4Network("10.0.0.0/8")], 0)


@given(st.sets(st.sampled_from(range(20000, 20010))), SEEDS)
def test_a_free_port_is_not_one_that_another_instance_holds(taken: set[int], seed: int) -> None:
    port = network.free_port(taken, seed)

    assert port not in taken
    assert port in network.PORTS


def test_two_folders_get_two_bridges_of_a_length_the_kernel_takes(tmp_path: Path) -> None:
    names = {network.bridge_name(tmp_path / str(number)) for number in range(50)}

    assert len(names) == 50
    assert all(len(name) <= 15 for name in names)


@given(
    st.dictionaries(st.text(min_size=1), st.integers(1, 65535)),
    st.lists(st.builds(processes.Started, st.text(), st.integers(2), st.integers(0), st.floats(0, 60)), max_size=4),
)
def test_a_record_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int], started: list[processes.Started]
) -> None:
    folder = tmp_path_factory.mktemp("record")
    written = record.Record("demo", "boot", "now", 3, "tl-x", ports, record.this_process(), tuple(started))

    record.write(folder, written)

    assert record.read(folder) == written


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"processes": [{"pid": 1}]}'])
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE).write_text(text)

    assert record.read(tmp_path) is None


def test_processes_of_another_boot_do_not_run(tmp_path: Path) -> None:
    found = record.Record("demo", "another boot", "now", 3, "tl-x", {}, None, (record.this_process(),))

    assert found.alive == ()


def test_a_number_that_another_process_has_now_is_never_signalled() -> None:
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        start = processes.start_of(stranger.pid)
        assert start is not None
        assert processes.stop(processes.Started("old", stranger.pid, start - 1)) is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_command_with_blanks_and_brackets_is_read_from_its_stat() -> None:
    fields = " ".join(str(number) for number in range(4, 22))

    assert processes.parse_stat(f"42 (a ) b (c) S 7 {fields}") == ("S", 7, 21)


def test_a_failing_command_names_part_exit_code_and_last_words(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "part.log"

    with pytest.raises(LabError, match=r"thing: `sh -c .* failed with exit code 3: no disk left\.") as raised:
        command.run("thing", ["sh", "-c", "echo no disk left; exit 3"], log=log)

    assert raised.value.log == log
    assert log.read_text() == "no disk left\n"


def test_a_command_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(LabError, match="thing: no-such-program could not be started: No such file"):
        command.run("thing", ["no-such-program"])


def test_an_interrupt_ends_commands_of_other_threads() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        with pytest.raises(LabError, match="failed with exit code -2"):
            command.run("thing", ["sh", "-c", "echo begun; exec sleep 600"], on_line=lambda _: begun.set())
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    command.interrupt_all()
    thread.join(10)

    assert ended.is_set()


def test_the_first_part_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def slow(_cache: Cache, _progress: object) -> None:
        command.run("slow", ["sh", "-c", "echo begun; exec sleep 600"], on_line=lambda _: begun.set())

    def broken(_cache: Cache, _progress: object) -> None:
        begun.wait(10)
        raise LabError("kafka", "no mirror answers.")

    monkeypatch.setattr(install, "_slow", lambda *_: [broken, slow])
    monkeypatch.setattr(install, "plan", lambda *_: ["something"])

    with pytest.raises(LabError, match="kafka: no mirror answers"):
        install.ensure({install.Part.KAFKA}, Silent(), Cache(tmp_path))


def test_only_packages_that_are_not_installed_are_missing() -> None:
    installed = "".join(f"ii  {name}\n" for name in debian.PACKAGES if name != "buildah") + "rc  buildah\n"

    assert debian.missing_of(installed) == ("buildah",)


@given(st.lists(st.tuples(st.integers(1, 2**31), st.integers(1, 2**20)), max_size=6))
def test_a_build_users_range_overlaps_nobody_elses(ranges: list[tuple[int, int]]) -> None:
    table = "".join(f"user{number}:{first}:{count}\n" for number, (first, count) in enumerate(ranges))

    ours = build_user.free_range(table, "nonsense\n")

    assert ours >= build_user.FIRST
    assert all(ours >= first + count or ours + build_user.COUNT <= first for first, count in ranges)


def test_the_mirror_of_the_release_itself_is_taken() -> None:
    listing = "http://mirror.example/debian stable-security\nhttp://mirror.example/debian stable\nfile:/x stable\n"

    assert base_image.mirror_of(listing, "stable") == "http://mirror.example/debian"
    assert base_image.mirror_of("", "stable") is None


def test_two_lists_of_parts_never_have_one_key() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")


def test_the_registry_keeps_no_descriptors_that_outlive_a_deletion(tmp_path: Path) -> None:
    told = json.loads(registry.config("127.0.0.1:5000", tmp_path / "images", "secret"))

    assert told["storage"]["delete"] == {"enabled": True}
    assert "cache" not in told["storage"]
    assert told["http"]["addr"] == "127.0.0.1:5000"


def test_nothing_of_the_cluster_listens_for_other_machines(layout: Layout) -> None:
    commands = (
        kube_config.etcd_command(layout),
        kube_config.api_server_command(layout),
        kube_config.controllers_command(layout),
        kube_config.scheduler_command(layout),
    )
    words = [str(word) for each in commands for word in each]

    assert "--bind-address=127.0.0.1" in words
    assert "--secure-port=0" in words
    assert not [word for word in words if "0.0.0.0" in word or "[::]" in word]
    kubelet = json.loads(kube_config.kubelet(layout))
    assert kubelet["address"] == layout.node_address
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}
    assert kubelet["readOnlyPort"] == 0


@pytest.mark.parametrize(
    ("found", "takes_pods"),
    [
        ({}, False),
        ({"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, False),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
        ({"status": {"conditions": [{"type": "Ready", "status": "True"}]}, "spec": {"taints": [{}]}}, False),
    ],
)
def test_a_node_takes_pods_when_it_is_ready_and_untainted(found: dict[str, object], takes_pods: bool) -> None:
    assert kube.is_schedulable(found) is takes_pods


def test_a_cache_below_what_the_node_covers_is_refused(layout: Layout) -> None:
    hidden = Layout("demo", Path("/run/towline/demo"), Cache(Path("/run/towline")), 3, "tl-x", layout.ports)

    with pytest.raises(LabError, match="must not lie below any of /run"):
        node.prepare(hidden)


@pytest.mark.parametrize("name", ["", "Demo", "../x", "a" * 32, "-a"])
def test_an_instances_name_cannot_leave_the_cache(name: str, tmp_path: Path) -> None:
    with pytest.raises(LabError, match="is no name"):
        Instance(name, Cache(tmp_path))


def test_a_running_instance_of_a_live_owner_is_refused_by_name(tmp_path: Path) -> None:
    instance = Instance("demo", Cache(tmp_path))
    me = record.this_process()
    record.write(instance.folder, record.Record("demo", processes.boot_id(), "now", 3, "tl-x", {}, me, (me,)))

    with pytest.raises(AlreadyRunning, match="instance 'demo': already runs"):
        instance.start(())


def test_a_detached_instance_is_held_by_nobody_but_refused_while_it_runs(tmp_path: Path) -> None:
    instance = Instance("demo", Cache(tmp_path))
    me = record.this_process()
    record.write(instance.folder, record.Record("demo", processes.boot_id(), "now", 3, "tl-x", {}, None, (me,)))

    assert instance.is_held


def test_the_lab_needs_nothing_but_rich_and_the_standard_library() -> None:
    """It runs before anything else is installed."""
    code = (
        "import sys; import towline_cli.lab; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'pydantic', 'yaml', 'typer', 'towline'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})

    assert done.stdout == "[]\n"


def test_the_machines_policy_on_services_comes_back_also_after_a_killed_installation(tmp_path: Path) -> None:
    """All was installed when the kill came, so nothing ran again, and no package could start its service ever after."""
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 0\n")
    killed = debian.no_services(policy)
    killed.__enter__()
    assert "exit 101" in policy.read_text()
    assert debian.is_unfinished(policy)

    with debian.no_services(policy):
        assert "exit 101" in policy.read_text()

    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert not debian.is_unfinished(policy)
