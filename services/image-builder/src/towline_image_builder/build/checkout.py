"""The jailed child that turns a snapshot into a context: `python -m towline_image_builder.build.checkout`.

Reads one JSON line (`Order`) and the snapshot's bytes from standard input, writes the tree below `/tree`, and answers
one JSON line (`Answer`) on standard output. Rules that must hold:

- It holds no credential and has no network; what it answers is believed no more than the tree itself.
- Context and Dockerfile lie inside the tree after every symlink is resolved.
- Ignored files are gone before anything is hashed, so the key names exactly what the build sees.
- Times are one constant, so what a build copies or compiles does not depend on when it was unpacked.
- Standard library, `towline.snapshot` and this service's pure readers only: its start is in the way of every build.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import TypedDict

from towline.errors import TowlineError
from towline.snapshot import unpack
from towline_image_builder import dockerfile, ignore

EPOCH = 315_532_800
"""1980-01-01: archive formats that a build may use know no earlier date."""
TREE = Path("/tree")
IGNORE_FILES = (".containerignore", ".dockerignore")
"""In the order in which the builder looks for them."""


class Order(TypedDict):
    tree: str
    context: str
    dockerfile: str
    args: dict[str, str]


class Refusal(TypedDict):
    message: str
    file: str | None
    line: int | None


class BaseUse(TypedDict):
    token: str
    reference: str
    line: int


class Step(TypedDict):
    line: int
    keyword: str
    stage: int
    step: int


class Answer(TypedDict, total=False):
    refused: Refusal
    context: str
    dockerfile: str
    context_hash: str
    dockerfile_hash: str
    bases: list[BaseUse]
    steps: list[Step]


class _Refused(Exception):
    def __init__(self, message: str, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.refusal = Refusal(message=message, file=file, line=line)


def prepare(order: Order, snapshot: bytes, top: Path) -> Answer:
    """Unpack below `top`, prune and read; a person's mistake comes back as `refused`."""
    try:
        unpack(snapshot, top, tree=order["tree"])
        context = _inside(top, order["context"], "the context", folder=True)
        file = _inside(top, order["dockerfile"], "the Dockerfile", folder=False)
        text = _text(file, order["dockerfile"])
        recipe = _recipe(text, order)
        _prune(context, top)
        _settle(top)
        return Answer(
            context=str(context.relative_to(top)),
            dockerfile=str(file.relative_to(top)),
            context_hash=_hash_of(context),
            dockerfile_hash=hashlib.sha256(text.encode()).hexdigest(),
            bases=[BaseUse(token=b.token, reference=b.reference, line=b.line) for b in recipe.bases],
            steps=[Step(line=i.line, keyword=i.keyword, stage=i.stage, step=i.step) for i in recipe.instructions],
        )
    except _Refused as refused:
        return Answer(refused=refused.refusal)
    except TowlineError as error:
        return Answer(refused=Refusal(message=str(error), file=None, line=None))


def _inside(top: Path, path: str, what: str, *, folder: bool) -> Path:
    try:
        resolved = (top / path).resolve(strict=True)
    except (OSError, RuntimeError):
        kind = "folder" if folder else "file"
        raise _Refused(f"{what} {path!r} is no {kind} of the repository; name one in .towline.yaml", path) from None
    if not resolved.is_relative_to(top.resolve()):
        raise _Refused(f"{what} {path!r} leads out of the repository; it must lie inside of it", path)
    if folder and not resolved.is_dir():
        raise _Refused(f"{what} {path!r} is a file, expected a folder", path)
    if not folder and not resolved.is_file():
        raise _Refused(f"{what} {path!r} is not a file", path)
    return resolved


def _text(file: Path, name: str) -> str:
    if file.stat().st_size > dockerfile.MAX_BYTES:
        raise _Refused(f"the file is larger than {dockerfile.MAX_BYTES} bytes", name)
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise _Refused("the file is not UTF-8 text", name) from None


def _recipe(text: str, order: Order) -> dockerfile.Recipe:
    try:
        return dockerfile.read(text, order["args"])
    except dockerfile.DockerfileProblem as problem:
        raise _Refused(problem.message, order["dockerfile"], problem.line) from None


def _prune(context: Path, top: Path) -> None:
    """Remove what the ignore file names; the builder finds nothing left to leave out."""
    for name in IGNORE_FILES:
        file = context / name
        if not file.is_file():
            continue
        resolved = _inside(top, str(file.relative_to(top)), "the ignore file", folder=False)
        where = str(file.relative_to(top))
        try:
            ignored = ignore.read(_text(resolved, where))
        except ignore.IgnoreProblem as problem:
            raise _Refused(problem.message, where, problem.line) from None
        for path in _files(context):
            if path not in IGNORE_FILES and ignored(path):
                (context / path).unlink()
        for path in _folders_bottom_up(context):
            if ignored(path) and not any((context / path).iterdir()):
                (context / path).rmdir()
        file.unlink()
        return


def _files(context: Path) -> list[str]:
    found: list[str] = []
    for folder, folders, files in os.walk(context):
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114 - a hot loop
        found += [os.path.relpath(f"{folder}/{name}", context) for name in (*files, *links)]
    return sorted(found)


def _folders_bottom_up(context: Path) -> list[str]:
    return [
        os.path.relpath(folder, context) for folder, _, _ in os.walk(context, topdown=False) if folder != str(context)
    ]


def _settle(top: Path) -> None:
    for folder, _, files in os.walk(top, topdown=False):
        for name in files:
            os.utime(f"{folder}/{name}", (EPOCH, EPOCH), follow_symlinks=False)
        Path(folder).chmod(0o755)
        os.utime(folder, (EPOCH, EPOCH), follow_symlinks=False)


def _hash_of(context: Path) -> str:
    """SHA-256 over path, kind, mode and content of everything that the build can see."""
    sha = hashlib.sha256()
    for path in _files(context):
        full = context / path
        mode = full.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, content = b"link", os.readlink(full).encode("utf-8", "surrogateescape")  # noqa: PTH115
        else:
            kind, content = b"exec" if mode & 0o100 else b"file", hashlib.sha256(full.read_bytes()).digest()
        for part in (path.encode("utf-8", "surrogateescape"), kind, content):
            sha.update(len(part).to_bytes(8, "big") + part)
    return sha.hexdigest()


def main() -> int:
    order: Order = json.loads(sys.stdin.buffer.readline(1 << 20))
    os.umask(0o022)
    answer = prepare(order, sys.stdin.buffer.read(), TREE)
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
