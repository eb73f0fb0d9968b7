"""Owns how long work is shown: a bar and a spinner on a terminal, plain lines everywhere else.

The rule that must hold: the installers know only `Progress`; whoever calls them chooses the picture.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from rich.console import Console


class Step(Protocol):
    """One piece of work under way. Safe to call from the thread that does it."""

    def total(self, count: int) -> None:
        """How many units there are, once that is known."""

    def advance(self, count: int = 1) -> None:
        """That many more units are done."""


class Progress(Protocol):
    """Where installers report to. Safe to call from several threads."""

    def say(self, sentence: str) -> None:
        """One line that stays."""

    def step(self, title: str) -> AbstractContextManager[Step]:
        """Work that starts now and ends with the block; its seconds are shown at the end."""


class _PlainStep:
    def __init__(self, title: str, progress: PlainProgress) -> None:
        self._title, self._progress = title, progress
        self._total = self._done = self._shown = 0

    def total(self, count: int) -> None:
        self._total = count

    def advance(self, count: int = 1) -> None:
        self._done += count
        tenth = self._done * 10 // self._total if self._total else 0
        if self._shown < tenth < 10:
            self._shown = tenth
            self._progress.say(f"{self._title}: {tenth * 10} %")


class PlainProgress:
    """Plain lines: the start, every tenth, the end with its seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        started = time.monotonic()
        self.say(f"{title} …")
        yield _PlainStep(title, self)
        self.say(f"{title}: done in {time.monotonic() - started:.1f} s")


class _RichStep:
    def __init__(self, progress: RichProgress, title: str) -> None:
        self._bars = progress.bars
        self._task = self._bars.add_task(title, total=None)

    def total(self, count: int) -> None:
        self._bars.update(self._task, total=count)

    def advance(self, count: int = 1) -> None:
        self._bars.advance(self._task, count)

    def finish(self) -> None:
        self._bars.remove_task(self._task)


class RichProgress:
    """Bars on a terminal; a finished step becomes one line with its seconds."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bars = Bars(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._console = console
        self._open = 0

    def say(self, sentence: str) -> None:
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        started = time.monotonic()
        self._open += 1
        self.bars.start()
        step = _RichStep(self, title)
        try:
            yield step
        finally:
            step.finish()
            self._open -= 1
            if self._open == 0:
                self.bars.stop()
        self.say(f"{title}: done in {time.monotonic() - started:.1f} s")


class _Nothing:
    def total(self, count: int) -> None:
        """Nobody looks."""

    def advance(self, count: int = 1) -> None:
        """Nobody looks."""


class Silent:
    """Reports to nobody."""

    def say(self, sentence: str) -> None:
        """Nobody looks."""

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:  # noqa: ARG002 - part of the protocol
        yield _Nothing()


def progress_on(console: Console) -> Progress:
    """The picture that fits `console`."""
    return RichProgress(console) if console.is_terminal else PlainProgress(console)
