"""What the demo shows: one line per stage with its seconds, a spinner on a terminal, plain lines without one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from towline_cli.view.printable import printable


class Note:
    """What a stage has to say when it is done."""

    def __init__(self) -> None:
        self.text = ""


class Screen:
    def __init__(self, console: Console) -> None:
        self.console = console
        self.stage = "getting ready"
        """What is under way, for the message when it fails."""

    def heading(self, text: str) -> None:
        self.console.print()
        self.console.print(Text(text, style="bold"), soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(f"    {printable(text)}".rstrip(), style=style), soft_wrap=True)

    def failed(self, text: str) -> None:
        self.console.print(Text("  ✗ ", style="red") + Text(text, style="bold"), soft_wrap=True)

    @contextmanager
    def doing(self, title: str) -> Iterator[Note]:
        """A stage: its title while it runs, then one line with its seconds and what its note says."""
        self.stage = title
        note, started = Note(), time.monotonic()
        if self.console.is_terminal:
            with self.console.status(title):
                yield note
        else:
            yield note
        seconds = time.monotonic() - started
        mark = Text("  ✓ ", style="green")
        said = f"  {note.text}" if note.text else ""
        self.console.print(mark + Text(f"{title:<58} {seconds:>6.1f} s") + Text(said, style="dim"), soft_wrap=True)
