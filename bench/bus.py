"""Figures of the bus and the delivery: `python bench/bus.py [--quick]` prints one JSON object per line.

    bus.publish.sqlite, .kafka              events per second published in batches
    delivery.events.sqlite                  through a handler that decides on a new state: a state batch for each event
    delivery.read.sqlite                    through a handler that decides nothing
    delivery.events.kafka                   the same on a real Kafka, beside bare aiokafka on the same broker
    delivery.turns.kafka                    through a handler that decides on a new state, on Kafka
    bus.publish_to_handle.sqlite, .processes, .kafka
                                            from `publish` until the handler is called (median of a quiet bus);
                                            between processes the publisher is another one
    bus.publish_to_handle_p99.…             the same, 99th percentile at 500 events/s
    delivery.turn.sqlite                    from `emit` until the decided event can be read
    delivery.memory.keys_go, .keys_stay     resident memory that 900,000 events more leave behind, of keys that come and
                                            go (100,000 in all) and of 100,000 that stay; with --quick 18,000 more:
                                            the same limit, so it sees only what is fifty times as steep
    delivery.idle.cpu, .wakeups             what five services use that have nothing to do

Floors are bare sqlite3 with synchronous=FULL, the peer is bare aiokafka, each in the same rounds (see bus_figures/).
Name subjects to measure only those: throughput latency turn memory idle; `--no-kafka` leaves Kafka out.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, it knows only its own folder

from bench.bus_figures import latency, memory, rest, throughput
from bench.bus_figures.service import sampled_off

from towline_cli import lab

Subject = Callable[[Path, str | None, bool], Awaitable[bool]]


async def measure_throughput(folder: Path, address: str | None, quick: bool) -> bool:
    fine = await throughput.sqlite(folder, *((2, 3000) if quick else (5, 20_000)))
    if address is not None:
        fine &= await throughput.kafka(address, *((2, 5000) if quick else (5, 20_000)))
    return fine


async def measure_latency(folder: Path, address: str | None, quick: bool) -> bool:
    rounds, events = (2, 80) if quick else (5, 500)
    fine = await latency.sqlite(folder, rounds, events)
    if address is not None:
        fine &= await latency.kafka(address, rounds, events)
    return fine


SUBJECTS: dict[str, Subject] = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "turn": lambda folder, _, quick: rest.turned(folder, 50 if quick else 500),
    "memory": lambda folder, _, quick: memory.sqlite(folder, 20_000 if quick else 1_000_000),
    "idle": lambda folder, _, quick: rest.idle(folder, 3 if quick else 30),
}


@contextmanager
def broker(wanted: bool) -> Iterator[str | None]:
    if not wanted:
        yield None
        return
    instance = lab.Instance("bench-bus")
    instance.start({lab.Part.KAFKA})
    try:
        yield instance.kafka
    finally:
        instance.remove()


async def measure(subjects: list[str], address: str | None, quick: bool) -> bool:
    results = []
    for subject in subjects:
        with tempfile.TemporaryDirectory(prefix="towline-bench-") as folder:
            results.append(await SUBJECTS[subject](Path(folder), address, quick))
    return all(results)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--no-kafka", action="store_true", help="leave Kafka out")
    parser.add_argument("subjects", nargs="*", help=f"of {' '.join(SUBJECTS)}; all by default")
    chosen = parser.parse_args()
    subjects = chosen.subjects or list(SUBJECTS)
    if unknown := set(subjects) - SUBJECTS.keys():
        parser.error(f"no subject {', '.join(sorted(unknown))}: there are {', '.join(SUBJECTS)}")
    logging.disable(logging.WARNING)
    sampled_off()
    with broker(not chosen.no_kafka and bool({"throughput", "latency"} & set(subjects))) as address:
        return 0 if asyncio.run(measure(subjects, address, chosen.quick)) else 1


if __name__ == "__main__":
    sys.exit(main())
