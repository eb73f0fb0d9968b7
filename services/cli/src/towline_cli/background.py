"""`towline up` as a process in the background: started, waited for until it is ready, stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from towline.errors import TowlineError
from towline_cli.lab.processes import last_lines
from towline_cli.local import LocalInstance


class DidNotStart(TowlineError):
    """The message names the log to read."""


class Background:
    """One run of all services on an instance's settings; its output goes to the instance's log."""

    def __init__(self, instance: LocalInstance, env: Mapping[str, str] | None = None) -> None:
        self.instance = instance
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DidNotStart(f"instance {self.instance.name} was not started")
        return self._process.pid

    def start(self, timeout: float = 30.0) -> str:
        """Returns the health address once every service reads its topics; raises DidNotStart."""
        self.instance.ready.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "towline_cli.main", "up", "--name", self.instance.name]
        with self.instance.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal is for whoever started this, who then stops it in order.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self._env},
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                code, said = self._process.returncode, last_lines(self.instance.log)
                raise DidNotStart(f"towline up ended with {code}: {said}; its log is {self.instance.log}")
            if self.instance.ready.exists() and (address := self.instance.ready.read_text().strip()):
                return address
            time.sleep(0.01)
        self.stop()
        said = last_lines(self.instance.log)
        raise DidNotStart(f"towline up was not ready after {timeout:.0f} s: {said}; its log is {self.instance.log}")

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """The exit code; negative for a signal. Raises subprocess.TimeoutExpired."""
        if self._process is None:
            raise DidNotStart(f"instance {self.instance.name} was not started")
        return self._process.wait(timeout)

    def stop(self, timeout: float = 15.0) -> int:
        """Drain by SIGTERM; SIGKILL for what does not end in time."""
        if self._process is None or self._process.poll() is not None:
            return 0 if self._process is None else self._process.returncode
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> Background:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
