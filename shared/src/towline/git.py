"""Git as Towline calls it: GitPython's `execute` with a list, and nothing inherited.

Owns the hardening of every call to Git on the trusted side. What must hold:

- A command is a list that starts with a fixed verb; what comes from outside is checked (`remote`, `check_ref`,
  `check_id`) before it takes a place in it, and no keyword of GitPython is ever filled from outside.
- No hook, filter, fsmonitor, credential helper or configuration of the machine, the user or the repository's author
  takes part; only the protocol that the caller names may be spoken; what arrives is checked by fsck.
- Every call has a limit of time and of output, and its whole process group ends with it.
- Values of the environment never stand in an argument list, where other users could read them.

GitPython is imported with the first call (it costs 140 ms); its objects with a life of their own are not used.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from towline.errors import BadInput, TowlineError, redact
from towline.ids import RepoId, is_object_id

DEFAULT_SECONDS = 60.0
DEFAULT_OUTPUT_BYTES = 64 << 20
ZERO_ID = "0" * 40

_INHERITED = ("PATH", "TMPDIR", "SSH_AUTH_SOCK")
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=10 -o PermitLocalCommand=no -o ClearAllForwardings=yes",
    "HOME": "/nonexistent",
}
_CONFIGURATION = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.askPass": "",
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "credential.helper": "",
    "safe.bareRepository": "explicit",
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    "fetch.fsckObjects": "true",
    "transfer.fsckObjects": "true",
    "transfer.credentialsInUrl": "die",
    "http.followRedirects": "false",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


def environment() -> dict[str, str]:
    """The variables a hardened call has, besides the inherited PATH, TMPDIR and SSH_AUTH_SOCK."""
    return dict(_ENVIRONMENT)


def options(protocols: Collection[str] = (), configuration: Mapping[str, str] | None = None) -> list[str]:
    """`-c` options of a hardened call that may speak `protocols` (`file`, `ssh`, `https`)."""
    settings = {**_CONFIGURATION, "protocol.allow": "never", **(configuration or {})}
    settings |= {f"protocol.{name}.allow": "always" for name in protocols}
    return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended; `err` is redacted."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """The output without its last newline; bytes that are not UTF-8 are replaced."""
        return self.out.decode("utf-8", "replace").removesuffix("\n")


class GitFailed(TowlineError):
    """Git ended with an exit code that the caller does not expect. Its consequence is the caller's to say."""

    def __init__(self, verb: str, answer: Answer) -> None:
        lines = [line for line in answer.err.splitlines() if line.strip()]
        super().__init__(f"git {verb} ended with {answer.code}: {' | '.join(lines[-3:])[:600]}")
        self.verb = verb
        self.answer = answer


class GitTooMuch(TowlineError):
    """A call took longer, or said more, than it may; its processes were ended."""


class Git:
    """Calls on one bare repository. Holds no process and no handle; safe to share between threads."""

    def __init__(
        self,
        git_dir: Path,
        *,
        protocols: Collection[str] = (),
        configuration: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`env` adds variables (a credential for one call chain); `configuration` overrides settings."""
        self._prefix = ["git", *options(protocols, configuration), f"--git-dir={git_dir}"]
        self._env = {**_ENVIRONMENT, "GIT_ALLOW_PROTOCOL": ":".join(protocols), **(env or {})}

    def ask(
        self,
        *args: str,
        stdin: bytes = b"",
        seconds: float = DEFAULT_SECONDS,
        output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> Answer:
        """Run `git <args>`, whatever the exit code. Raises GitTooMuch over a limit."""
        process = _start([*self._prefix, *args], self._env, with_stdin=bool(stdin))
        try:
            out, err = _talk(process, stdin, seconds, output_bytes)
        except GitTooMuch as error:
            raise GitTooMuch(f"git {args[0]} {error}") from None
        return Answer(process.returncode, out, redact(err.decode("utf-8", "replace")))

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        seconds: float = DEFAULT_SECONDS,
        output_bytes: int = DEFAULT_OUTPUT_BYTES,
    ) -> Answer:
        """Run `git <args>`. Raises GitFailed for an exit code other than 0, GitTooMuch over a limit."""
        answer = self.ask(*args, stdin=stdin, seconds=seconds, output_bytes=output_bytes)
        if answer.code != 0:
            raise GitFailed(args[0], answer)
        return answer

    @classmethod
    def init_bare(cls, git_dir: Path, *, protocols: Collection[str] = ()) -> Git:
        """Make a bare repository without templates (they could bring hooks); one that exists is kept as it is."""
        git = cls(git_dir, protocols=protocols)
        git_dir.parent.mkdir(parents=True, exist_ok=True)
        git.run("init", "--quiet", "--bare", "--template=", "--initial-branch=main", str(git_dir))
        return git


def _start(command: Sequence[str], env: Mapping[str, str], *, with_stdin: bool) -> subprocess.Popen[bytes]:
    """`env -u` takes the parent's variables away by name: GitPython itself always inherits them all."""
    from git import Git as GitPython

    allowed = {*_INHERITED, *env, "LANGUAGE", "LC_ALL"}
    without = [part for name in os.environ if name not in allowed for part in ("-u", name)]
    interrupt = GitPython("/").execute(
        ["env", *without, *command],
        as_process=True,
        env=dict(env),
        shell=False,
        istream=subprocess.PIPE if with_stdin else subprocess.DEVNULL,
        start_new_session=True,
    )
    process = cast("subprocess.Popen[bytes]", interrupt.proc)
    interrupt.proc = None  # its finaliser would end the process behind our back
    return process


def _talk(process: subprocess.Popen[bytes], stdin: bytes, seconds: float, output_bytes: int) -> tuple[bytes, bytes]:
    """Feed and drain a process within its limits; on the way out of an error its group is killed."""
    try:
        return _pump(process, memoryview(stdin), time.monotonic() + seconds, output_bytes)
    except GitTooMuch:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()


def _pump(
    process: subprocess.Popen[bytes], stdin: memoryview, deadline: float, output_bytes: int
) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    taken: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    out, err = taken.values()
    with selectors.DefaultSelector() as selector:
        for fd in taken:
            selector.register(fd, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise GitTooMuch("took longer than its time limit and was ended")
            for key, _ in ready:
                if process.stdin is not None and key.fileobj is process.stdin:
                    stdin = _feed(process.stdin.fileno(), stdin)
                    if not stdin:
                        selector.unregister(process.stdin)
                        with contextlib.suppress(BrokenPipeError):
                            process.stdin.close()
                    continue
                chunk = os.read(key.fd, 1 << 16)
                taken[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
            if len(out) + len(err) > output_bytes:
                raise GitTooMuch(f"said more than {output_bytes} bytes and was ended")
    _wait(process, deadline)
    return bytes(out), bytes(err)


def _feed(fd: int, stdin: memoryview) -> memoryview:
    try:
        return stdin[os.write(fd, stdin[: 1 << 16]) :]
    except BrokenPipeError:
        return memoryview(b"")


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    try:
        process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise GitTooMuch("closed its output but did not end, and was ended") from None


@dataclass(frozen=True, slots=True)
class Remote:
    """A checked address: `url` as Git takes it, the one protocol it needs, and the host (`localhost` for a path)."""

    url: str
    protocol: str
    host: str
    path: str


_SCHEMED = re.compile(r"(https|ssh|file)://(?:([\w.+~-]+)@)?([A-Za-z0-9][A-Za-z0-9.-]*)?(?::(\d{1,5}))?(/[^\s?#]*)")
_SCP_LIKE = re.compile(r"([\w.+~-]+)@([A-Za-z0-9][A-Za-z0-9.-]*):(?!:)([\w.~/+][^\s:]*)")


def remote(url: str) -> Remote:
    """Check the address of a repository. Raises BadInput for everything but https, ssh, file:// and absolute paths.

    Remote helpers (`ext::…`), options (`-u…`) and credentials inside of the address are refused.
    """
    if url.startswith("/") and not any(c.isspace() or not c.isprintable() for c in url) and "::" not in url:
        return Remote(url, "file", "localhost", url)
    if match := _SCHEMED.fullmatch(url):
        scheme, _, host, _, path = match.groups()
        if scheme == "file" and not host:
            return Remote(url, "file", "localhost", path)
        if scheme != "file" and host and (scheme == "ssh" or not match[2]):
            return Remote(url, scheme, host, path)
    if match := _SCP_LIKE.fullmatch(url):
        return Remote(url, "ssh", match[2], "/" + match[3].lstrip("/"))
    raise BadInput(
        f"{redact(url)!r} is no address Towline uses; expected https://host/path, ssh://user@host/path, "
        "user@host:path, file:///path or an absolute path, without a password in it"
    )


def repo_id(url: str) -> RepoId:
    """The repository's id: `<host>/<path without .git>`. Raises BadInput as `remote` does."""
    found = remote(url)
    return RepoId(f"{found.host}/{found.path.strip('/').removesuffix('.git')}")


_REF = re.compile(r"refs/[A-Za-z0-9_][\w.+/@#%=-]*", re.ASCII)


def is_ref(name: str) -> bool:
    """True for a full ref name that Git accepts and that can be no option, range or reflog expression."""
    parts = name.split("/")
    return (
        len(name) <= 400
        and _REF.fullmatch(name) is not None
        and ".." not in name
        and "@{" not in name
        and all(part and part[0] not in ".-" and not part.endswith((".", ".lock")) for part in parts)
    )


def check_ref(name: str) -> str:
    if not is_ref(name):
        raise BadInput(f"{name[:100]!r} is no ref name that Towline takes; expected refs/… of letters, digits and ._-/")
    return name


def check_id(object_id: str) -> str:
    if not is_object_id(object_id):
        raise BadInput(f"{object_id[:80]!r} is no full Git object id")
    return object_id
