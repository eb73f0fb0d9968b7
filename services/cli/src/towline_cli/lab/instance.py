"""Owns an instance: one named set of running real parts with addresses of its own.

The rule that must hold: what an instance starts or makes is written down at once and is taken away by `stop`, from
whichever process that is called; nothing else is touched. Two instances of different names never meet.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from towline_cli.lab import (
    base_image,
    kafka,
    kafka_listeners,
    kube,
    network,
    node,
    oci,
    pause,
    processes,
    record,
    registry,
)
from towline_cli.lab.cache import Cache
from towline_cli.lab.command import remove_folder
from towline_cli.lab.errors import AlreadyRunning, LabError
from towline_cli.lab.install import Part
from towline_cli.lab.layout import PORT_NAMES, Layout
from towline_cli.lab.record import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from towline_cli.lab.kafka_listeners import KafkaListeners
    from towline_cli.lab.processes import Started

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


class Instance:
    """Real parts under one name. Use `start`, then the addresses, then `stop`; `detach` leaves it running."""

    def __init__(self, name: str, cache: Cache | None = None) -> None:
        if not NAME.fullmatch(name):
            raise LabError("instance", f"{name!r} is no name: small letters, digits and dashes, at most 31.")
        self.name = name
        self.cache = cache or Cache.default()
        self.folder = self.cache.instances / name
        self._writing = threading.Lock()

    # What it offers

    @property
    def registry(self) -> str:
        """host:port of the image registry (plain HTTP)."""
        return self._layout().registry

    @property
    def kafka(self) -> str:
        """host:port of the Kafka broker."""
        return self._layout().kafka

    def kafka_listener(self, name: str) -> str:
        """host:port of a further listener of the broker: tls, mutual, sasl or clear."""
        return f"{kafka_listeners.HOST}:{self._layout().ports[f'kafka-{name}']}"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's kubeconfig."""
        return self._layout().kubeconfig

    @property
    def kubectl(self) -> Path:
        return self.cache.bin / "kubectl"

    @property
    def kustomize(self) -> Path:
        return self.cache.bin / "kustomize"

    @property
    def base_image(self) -> str:
        """Reference of the Debian base image in the instance's registry."""
        return f"{self.registry}/{base_image.NAME}:{base_image.TAG}"

    @property
    def state(self) -> Path:
        """Files that go when the instance stops; whoever uses the instance may keep its own here."""
        return self.folder / "state"

    def log(self, part: str) -> Path:
        """Where the output of a started process goes."""
        return self.folder / "logs" / f"{part}.log"

    @property
    def is_running(self) -> bool:
        """Whether anything it started runs."""
        found = record.read(self.folder)
        return found is not None and bool(found.alive)

    @property
    def is_held(self) -> bool:
        """Whether it runs and somebody stands for it: then it is not started a second time."""
        found = record.read(self.folder)
        return found is not None and bool(found.alive) and found.is_owned

    @property
    def is_mine(self) -> bool:
        """Whether this process started it and still stands for it: then, and only then, it may take it away unasked."""
        found = record.read(self.folder)
        return found is not None and found.owner == record.this_process()

    # Its life

    def start(
        self,
        parts: Collection[Part] = (Part.REGISTRY, Part.KUBERNETES),
        listeners: KafkaListeners | None = None,
    ) -> None:
        """Starts `parts` (all installed before, see `ensure`) and returns once they can be used. Kafka gets further
        `listeners` beside its plain one.

        What a killed instance of this name left is taken away first. Raises `AlreadyRunning` when one runs that
        somebody stands for, `LabError` when a part does not start; then nothing of it is left running.
        """
        with self.cache.lock(f"instance-{self.name}"):
            if self.is_held:
                raise AlreadyRunning(self.name, f"since {self._record().since}")
            self._take_away(keep_logs=False)
            with self._stopped_when_it_fails():
                self._claim()
        with self._stopped_when_it_fails():
            self.add(parts, listeners)

    def add(self, parts: Collection[Part], listeners: KafkaListeners | None = None) -> None:
        """Starts more parts in an instance that this process started. A registry comes with Kubernetes."""
        wanted = set(parts) | ({Part.REGISTRY} if set(parts) & {Part.KUBERNETES, Part.BUILDER} else set())
        started = {each.name for each in self._record().alive}
        layout = self._layout()
        with ThreadPoolExecutor(max_workers=4) as pool:
            work = []
            if Part.KAFKA in wanted and kafka.PART not in started:
                broker = self._note(kafka.start(layout, listeners))
                work.append(pool.submit(kafka.await_ready, layout, broker))
            if Part.REGISTRY in wanted and registry.PART not in started:
                images = pool.submit(self._start_registry, layout)
                work.append(images)
            if Part.KUBERNETES in wanted and node.PART not in started:
                work += self._start_kubernetes(layout, pool)
        for each in work:
            each.result()
        if Part.BUILDER in wanted:
            oci.push_layout(self.cache.base_image, layout.registry, base_image.NAME, base_image.TAG)

    def end_kafka(self) -> None:
        """Kills the broker; `add` starts it again on the same ports, with what it had written."""
        for each in self._record().alive:
            if each.name == kafka.PART:
                processes.stop(each)

    def signal_kafka(self, number: signal.Signals) -> None:
        """Sends the broker a signal, such as SIGSTOP."""
        for each in self._record().alive:
            if each.name == kafka.PART:
                signal.pidfd_send_signal(pinned := os.pidfd_open(each.pid), number)
                os.close(pinned)

    def detach(self) -> None:
        """Leaves the instance running when this process ends."""
        with self._writing:
            record.write(self.folder, replace(self._record(), owner=None))

    def stop(self) -> list[str]:
        """Ends what the instance started and takes away what it made; returns that, one phrase each. Logs stay."""
        with self.cache.lock(f"stop-{self.name}"):
            return self._take_away(keep_logs=True)

    def remove(self) -> list[str]:
        """As `stop`, and takes away the logs and the instance's folder too."""
        with self.cache.lock(f"stop-{self.name}"):
            return self._take_away(keep_logs=False)

    # Inside

    @contextmanager
    def _stopped_when_it_fails(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def _record(self) -> Record:
        found = record.read(self.folder)
        if found is None:
            raise LabError(f"instance {self.name!r}", "does not run.", remedy="Start it with `make demo KEEP=1`.")
        return found

    def _layout_of(self, found: Record) -> Layout:
        return Layout(self.name, self.folder, self.cache, found.index, found.bridge, found.ports)

    def _layout(self) -> Layout:
        return self._layout_of(self._record())

    def _held_ports(self) -> set[int]:
        folders = self.cache.instances.glob("*/")
        return {port for folder in folders if (found := record.read(folder)) for port in found.ports.values()}

    def _claim(self) -> None:
        """Chooses addresses and makes the bridge that holds the subnets for us, before anybody else can choose."""
        with network.machine_lock():
            held, ports = self._held_ports(), dict[str, int]()
            for name in PORT_NAMES:
                ports[name] = network.free_port(held | set(ports.values()), network.seed_of(f"{self.folder}/{name}"))
            seed = network.seed_of(str(self.folder))
            index, bridge = network.free_index(network.taken_networks(), seed), network.bridge_name(self.folder)
            since = datetime.now().astimezone().isoformat(timespec="seconds")
            owner, boot = record.this_process(), processes.boot_id()
            record.write(self.folder, Record(self.name, boot, since, index, bridge, ports, owner))
            network.make_bridge(bridge, index)

    def _note(self, process: Started) -> Started:
        with self._writing:
            record.write(self.folder, self._record().with_process(process))
        return process

    def _start_registry(self, layout: Layout) -> None:
        process = self._note(registry.start(layout))
        registry.await_ready(layout, process)
        if (self.cache.pause_image / "index.json").exists():
            oci.push_layout(self.cache.pause_image, layout.registry, pause.NAME, pause.TAG)

    def _start_kubernetes(self, layout: Layout, pool: ThreadPoolExecutor) -> list[Future[None]]:
        """Control plane and node come up side by side, the kubelet when both are there."""
        api = kube.Api(layout, kube.prepare(layout))
        plane = pool.submit(kube.start_control_plane, layout, api, self._note)
        namespace = pool.submit(kube.start_node, layout, self._note)

        def kubelet() -> None:
            plane.result()
            kube.start_kubelet(layout, namespace.result(), api, self._note)

        return [pool.submit(kubelet)]

    def _take_away(self, *, keep_logs: bool) -> list[str]:
        found = record.read(self.folder)
        done = self._end_processes(found) if found is not None else []
        if found is not None:
            layout = self._layout_of(found)
            done += [f"network interface {name}" for name in network.remove_interfaces(found.bridge, found.index)]
            done += [f"control group {name[:12]}" for name in node.remove_cgroups(layout)]
        if self.state.exists():
            remove_folder(self.state)
            done.append(f"folder {self.state}")
        record.remove(self.folder)
        if not keep_logs and self.folder.exists():
            remove_folder(self.folder)
            done.append(f"folder {self.folder}")
        return done

    def _end_processes(self, found: Record) -> list[str]:
        """Last started first: whoever uses a part goes before it. Phrases of those that ran."""
        done = []
        for each in reversed(found.alive):
            stop = node.stop_namespace if each.name == node.PART else processes.stop
            if stop(each):
                done.append(f"process {each.name} ({each.pid})")
        return done


def names(cache: Cache | None = None) -> list[str]:
    """Every instance that runs or left something."""
    folders = (cache or Cache.default()).instances.glob("*/")
    return sorted(folder.name for folder in folders if NAME.fullmatch(folder.name))


def sweep(prefix: str, cache: Cache | None = None) -> list[str]:
    """Takes away the instances named so whose owner ended before it took them away; returns their names."""
    swept = []
    for name in names(cache):
        instance = Instance(name, cache)
        found = record.read(instance.folder)
        if name.startswith(prefix) and found is not None and not found.is_owned:
            instance.remove()
            swept.append(name)
    return swept
