"""The tables of `docs/flow.md` that are made from the map; the sentences around them are written by hand."""

from __future__ import annotations

from towline import flow


def sections() -> dict[str, str]:
    """Name of a marker → what stands between it and its end."""
    return {"streams": _streams(), "services": _services(), "waits": _waits(), "topics": _topics()}


def _streams() -> str:
    rows = ["| topic | key | only producer | event | consumers | kept |", "|---|---|---|---|---|---|"]
    for stream in flow.STREAMS:
        kept = "no limit" if stream.retention is None else f"{stream.retention.days} days"
        for event, consumers in stream.events.items():
            link = f"[{event.__name__}](events.md#{event.__name__.lower()})"
            way = f"| `{stream.topic}` | {stream.key_name} | {stream.producer} "
            rows.append(f"{way}| {link} | {', '.join(consumers)} | {kept} |")
    return "\n".join(rows)


def _services() -> str:
    rows = ["| service | consumes | produces |", "|---|---|---|"]
    for service in flow.SERVICES:
        consumed = [e.__name__ for s in flow.STREAMS for e, to in s.events.items() if service in to]
        produced = [e.__name__ for s in flow.STREAMS if s.producer == service for e in s.events]
        rows.append(f"| {service} | {', '.join(consumed)} | {', '.join(produced)} |")
    return "\n".join(rows)


def _waits() -> str:
    rows = ["| what begins | ends with |", "|---|---|"]
    for start, ends in flow.WAITS.items():
        word = " and " if start.__name__ == "CandidateCreated" else " or "
        rows.append(f"| {start.__name__} | {word.join(end.__name__ for end in ends)} |")
    return "\n".join(rows)


def _topics() -> str:
    rows = ["| topic | partitions | cleanup | kept |", "|---|---|---|---|"]
    for topic in flow.topics():
        kept = "no limit" if topic.retention is None else f"{topic.retention.days} days"
        rows.append(f"| `{topic.name}` | {topic.partitions} | {topic.cleanup.value} | {kept} |")
    return "\n".join(rows)
