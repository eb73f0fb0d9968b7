"""`towline demo`: sets the stage, lets the story be told, and takes everything away again, however it ended.

Rules: what will be installed and changed is said before it is done; a demo that runs is never touched by a second one
of its name; the exit code is 0 only when everything promised was seen.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from towline import flow
from towline.errors import BadInput, TowlineError
from towline_cli import lab
from towline_cli.background import Background
from towline_cli.demo.notified import notified_lines
from towline_cli.demo.receiver import Receiver
from towline_cli.demo.screen import Screen
from towline_cli.demo.story import Story, kubectl_command
from towline_cli.demo.workplace import Refused, Workplace, write_application
from towline_cli.instances import open_log
from towline_cli.local import LocalInstance, Surroundings

BUSES = ("sqlite", "kafka")
FAILURES = (TowlineError, lab.LabError, Refused, TimeoutError, OSError)
INTERRUPTED = 130


def demo(name: str, bus: str, *, keep: bool) -> int:
    """The exit code: 0, 1 when something promised was not seen, 130 when it was interrupted."""
    if bus not in BUSES:
        raise BadInput(f"{bus!r} is no bus of the demo; expected {' or '.join(BUSES)}")
    screen = Screen(Console(highlight=False))
    stage = Stage(screen, name, bus)
    stage.refuse_a_second()
    with _terminated_is_interrupted():
        try:
            stage.play()
        except KeyboardInterrupt:
            return stage.interrupted()
        except lab.AlreadyRunning:
            raise  # another one of this name was quicker: there is nothing to take away and no log to read
        except FAILURES as error:
            return stage.failed(error)
        except Exception as error:  # a bug: its trace is for us, but what was started goes all the same
            stage.failed(error)
            raise
        if keep:
            stage.leave_running()
        else:
            stage.clear()
    return 0


class Stage:
    """The parts, the services and the developer's clone that one demo plays on."""

    def __init__(self, screen: Screen, name: str, bus: str) -> None:
        self._screen = screen
        self._bus = bus
        self._lab = lab.Instance(name)
        self._local = LocalInstance(name)
        self._towline = Background(self._local)
        self._parts = {lab.Part.REGISTRY, lab.Part.KUBERNETES, lab.Part.BUILDER}
        if bus == "kafka":
            self._parts.add(lab.Part.KAFKA)

    def refuse_a_second(self) -> None:
        """Raises BadInput when this name is in use."""
        name = self._lab.name
        if self._lab.is_held:
            raise BadInput(
                f"a demo named {name!r} runs already; stop it with `make down LAB={name}`, "
                "or start another one with LAB=<name>"
            )
        if self._local.exists() and not self._local.is_disposable:
            raise BadInput(
                f"{name!r} is an instance that `towline up` made, with a repository of its own; "
                "name the demo otherwise with LAB=<name>"
            )

    def play(self) -> None:
        """Raises one of FAILURES, or KeyboardInterrupt."""
        self._announce()
        self._install()
        self._start_parts()
        with Receiver() as receiver:
            self._start_services(receiver)
            self._tell(receiver)

    def _announce(self) -> None:
        say, wanted = self._screen, lab.plan(self._parts)
        say.heading(f"Towline demo {self._lab.name!r}: a commit travels from a push to healthy pods, on real parts")
        for sentence in wanted:
            say.line(sentence)
        if not wanted:
            say.line(f"Everything it needs is installed already, in {self._lab.cache.folder}.")
        kafka = ", Kafka" if lab.Part.KAFKA in self._parts else ""
        say.line(f"Starts a registry, a one-node Kubernetes{kafka} and Towline, on free ports of 127.0.0.1 and a")
        say.line(f"network bridge of its own; writes to {self._lab.folder} and {self._local.folder}.")
        say.line("All that is started goes away at the end; what was installed stays for the next time.")

    def _install(self) -> None:
        if not lab.plan(self._parts):
            return
        self._screen.heading("Parts are installed, once")
        self._screen.stage = "installing parts"
        lab.ensure(self._parts, lab.progress_on(self._screen.console))

    def _start_parts(self) -> None:
        self._screen.heading("Towline and what it works with are started")
        parts = "registry, Kubernetes" + (", Kafka" if lab.Part.KAFKA in self._parts else "")
        with self._screen.doing(parts) as note:
            self._lab.start(self._parts)
            note.text = f"registry {self._lab.registry}"

    def _start_services(self, receiver: Receiver) -> None:
        with self._screen.doing("towline up: five services in one process") as note:
            self._local.remove()  # what a demo that was killed left
            around = Surroundings(
                registry=self._lab.registry,
                kubeconfig=self._lab.kubeconfig,
                bus=f"kafka://{self._lab.kafka}" if self._bus == "kafka" else None,
                webhook=receiver.url,
                kustomize=self._lab.kustomize,
            )
            registry, base = self._lab.registry, self._lab.base_image
            self._local.create(around, lambda tree: write_application(tree, registry, base), disposable=True)
            note.text = f"http://{self._towline.start()}/readyz"

    def _tell(self, receiver: Receiver) -> None:
        workplace = Workplace(self._local.folder / "clone", self._local.repository)
        workplace.clone()
        kubectl = kubectl_command(self._lab.kubectl, self._lab.kubeconfig)

        async def told() -> None:
            bus = await open_log(self._local.config)
            try:
                await Story(self._screen, bus, workplace, kubectl, flow.PARTITIONS).tell()
            finally:
                await bus.close()

        asyncio.run(told())
        self._screen.heading(f"What was notified, to the webhook receiver at {receiver.url}")
        for line in notified_lines(receiver.received):
            self._screen.line(line)

    # How it ends

    def clear(self) -> None:
        """Takes everything away; a second Ctrl-C cannot leave half of it."""
        if not self._lab.is_mine:
            return  # nothing was started yet, or another demo was quicker with this name
        with _uninterrupted(), self._screen.doing("everything is stopped and taken away") as note:
            done = self._towline_gone() + self._lab.remove()
            note.text = f"{len(done)} things; what was installed stays in {self._lab.cache.folder}"

    def leave_running(self) -> None:
        name = self._lab.name
        self._lab.detach()
        self._screen.heading("It is left running")
        places = {
            "repository": str(self._local.repository),
            "registry": self._lab.registry,
            "cluster": f"{self._lab.kubectl} --kubeconfig {self._lab.kubeconfig} get pods",
            "log": str(self._local.log),
            "look": f"{_program()} status --name {name}",
            "stop": f"make down LAB={name}",
            "notices": f"the demo's receiver is gone; name one of yours in {self._local.config}, then start again",
        }
        if self._bus == "kafka":
            places["Kafka"] = self._lab.kafka
        for what, where in places.items():
            self._screen.line(f"{what:<11} {where}")

    def interrupted(self) -> int:
        self._screen.failed(f"interrupted while: {self._screen.stage}")
        self.clear()
        return INTERRUPTED

    def failed(self, error: BaseException) -> int:
        """Says the stage, the log to read and the command to try; logs stay where they are said to be."""
        stage = self._screen.stage
        with _uninterrupted():
            log = self._log_of(error)
            if self._lab.is_mine:
                self._towline_gone()
                self._lab.stop()
        self._screen.failed(f"failed while: {stage}")
        self._screen.line(str(error) or type(error).__name__)
        self._screen.line(f"log to read:    {log}")
        self._screen.line(f"command to try: make demo KEEP=1 LAB={self._lab.name}")
        return 1

    def _log_of(self, error: BaseException) -> Path:
        """The log that tells most, at a place that stays when the instance is taken away."""
        if isinstance(error, lab.LabError) and error.log is not None:
            return error.log
        if not self._local.log.exists():
            return self._lab.cache.logs
        kept = self._lab.log("towline")
        kept.parent.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(self._local.log, kept))

    def _towline_gone(self) -> list[str]:
        self._towline.stop()
        return self._local.remove()


def _program() -> str:
    """`towline` as it is called from here."""
    program = Path(sys.executable).with_name("towline")
    return str(program.relative_to(Path.cwd())) if program.is_relative_to(Path.cwd()) else str(program)


@contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM ends a demo as Ctrl-C does: in order."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handling(signal.SIGTERM, interrupt):
        yield


@contextmanager
def _uninterrupted() -> Iterator[None]:
    with ExitStack() as stack:
        for number in (signal.SIGINT, signal.SIGTERM):
            stack.enter_context(_handling(number, signal.SIG_IGN))
        yield


@contextmanager
def _handling(number: signal.Signals, handler: signal._HANDLER) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
