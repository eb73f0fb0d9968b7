"""Reads a Dockerfile as far as Towline must: which images it needs, and where each instruction stands.

What the build does is the builder's business; this finds base images before there is a network to fetch them from,
and lines to blame afterwards. Rules that must hold:

- Bounded: size, lines and stages are limited, and no pattern can be made slow by its input.
- A base is keyed by the token as written, so the builder looks up exactly what was resolved here; should the two
  ever read a file differently, the build finds no image and fails. It cannot find another one.
- Standard library only: it runs in a jailed child.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from towline_image_builder.architecture import PLATFORM

MAX_BYTES = 256 << 10
MAX_INSTRUCTIONS = 2000
MAX_BASES = 32
NOTHING = "scratch"
"""The base that is none."""
KEYWORDS = frozenset(
    {
        *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "MAINTAINER"),
        *("ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    }
)
SYNTAXES = re.compile(r"(docker\.io/)?docker/dockerfile(:1(\.[0-9]+){0,2})?")
"""Frontends that say what the builder does anyway; a frontend is a program, and no other is run."""

_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(.*)")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?:(:[-+])([^${}]*))?\})")
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S+))?$")
_WORD = re.compile(r"[^\s\[\]\",']+")
"""Of a list in either form, plain or JSON."""
_REMOTE = re.compile(r"(?i)(https?://|git@|git://|ftp://)")
_HERE_DOCUMENT = re.compile(r"<<-?[\"']?[A-Za-z_]\w*[\"']?(\s|$)")
_HERE_DOCUMENT_KEYWORDS = frozenset({"RUN", "COPY", "ADD"})


class DockerfileProblem(Exception):
    """What is wrong with the file and what to do; `line` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message, self.line = message, line


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction. `stage` counts from 1, 0 is what stands before the first FROM; so does `step` in its stage."""

    line: int
    keyword: str
    flags: tuple[tuple[str, str], ...]
    rest: str
    stage: int
    step: int


@dataclass(frozen=True, slots=True)
class Base:
    """An image that must be fetched: `token` as the file says it, `reference` with its variables resolved."""

    token: str
    reference: str
    line: int


@dataclass(frozen=True, slots=True)
class Recipe:
    instructions: tuple[Instruction, ...]
    bases: tuple[Base, ...]


def read(text: str, args: Mapping[str, str]) -> Recipe:
    """`args` are the declared build arguments. Raises DockerfileProblem."""
    if len(text) > MAX_BYTES:
        raise DockerfileProblem(f"the file is larger than {MAX_BYTES} bytes")
    instructions = tuple(_instructions(text))
    if not any(each.keyword == "FROM" for each in instructions):
        raise DockerfileProblem("there is no FROM; a Dockerfile starts with `FROM <image>` or `FROM scratch`", 1)
    for each in instructions:
        _refuse_remote(each)
    bases = tuple({base.token: base for base in _bases(instructions, args)}.values())
    if len(bases) > MAX_BASES:
        raise DockerfileProblem(f"more than {MAX_BASES} different images are used", bases[MAX_BASES].line)
    return Recipe(instructions, bases)


def _instructions(text: str) -> Iterator[Instruction]:
    stage = step = count = 0
    for line, logical in _logical_lines(text):
        keyword, _, rest = logical.partition(" ")
        keyword = keyword.upper()
        if keyword not in KEYWORDS:
            raise DockerfileProblem(
                f"unknown instruction {keyword[:40]!r}; expected one of {', '.join(sorted(KEYWORDS))}", line
            )
        if keyword in _HERE_DOCUMENT_KEYWORDS and _HERE_DOCUMENT.search(rest):
            raise DockerfileProblem(
                "here-documents are not read by this builder; put the text into a file and COPY it, "
                "or use `RUN printf '...' > file`",
                line,
            )
        if keyword == "FROM":
            stage, step = stage + 1, 0
        elif stage == 0 and keyword != "ARG":
            raise DockerfileProblem(f"{keyword} stands before the first FROM; only ARG may", line)
        step, count = step + 1, count + 1
        if count > MAX_INSTRUCTIONS:
            raise DockerfileProblem(f"more than {MAX_INSTRUCTIONS} instructions", line)
        flags, rest = _flags(rest)
        yield Instruction(line, keyword, flags, rest, stage, step)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) with continued lines joined and comments dropped; heeds the directives at the top."""
    lines = text.removeprefix("\ufeff").splitlines()
    escape, start = _directives(lines)
    parts: list[str] = []
    first = 0
    for number, raw in enumerate(lines[start:], start + 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        first = first if parts else number
        goes_on = line.endswith(escape)
        parts.append(line[:-1].rstrip() if goes_on else line)
        if not goes_on:
            yield first, " ".join(" ".join(parts).split(None, 1))
            parts = []
    if parts:
        yield first, " ".join(" ".join(parts).split(None, 1))


def _directives(lines: list[str]) -> tuple[str, int]:
    escape = "\\"
    for index, line in enumerate(lines):
        match = _DIRECTIVE.match(line.strip())
        if not match or match[1].lower() not in {"syntax", "escape", "check"}:
            return escape, index
        name, value = match[1].lower(), match[2].strip()
        if name == "syntax" and not SYNTAXES.fullmatch(value):
            raise DockerfileProblem(
                f"the frontend {value[:80]!r} is not allowed: it is a program that would run outside of the build; "
                "remove the line or use docker/dockerfile:1",
                index + 1,
            )
        if name == "escape":
            if value not in {"\\", "`"}:
                raise DockerfileProblem(f"escape is \\ or `, not {value[:20]!r}", index + 1)
            escape = value
    return escape, len(lines)


def _flags(rest: str) -> tuple[tuple[tuple[str, str], ...], str]:
    flags: list[tuple[str, str]] = []
    while rest.startswith("--"):
        word, _, after = rest.partition(" ")
        match = _FLAG.match(word)
        if not match:
            break
        flags.append((match[1], match[2] or ""))
        rest = after.lstrip()
    return tuple(flags), rest


def _bases(instructions: tuple[Instruction, ...], args: Mapping[str, str]) -> Iterator[Base]:
    known = dict(args)
    stages: set[str] = set()
    for each in instructions:
        if each.keyword == "ARG" and each.stage == 0:
            name, given, default = each.rest.partition("=")
            if given and name not in known:
                known[name] = _resolved(default.strip("\"'"), known, each.line)
        elif each.keyword == "FROM":
            yield from _from(each, known, stages)
        else:
            yield from _copied_from(each, stages)


def _from(each: Instruction, known: Mapping[str, str], stages: set[str]) -> Iterator[Base]:
    words = each.rest.split()
    named = len(words) == 3 and words[1].upper() == "AS"
    if len(words) != 1 and not named:
        raise DockerfileProblem(
            f"FROM {each.rest[:80]!r}; expected `FROM <image>` or `FROM <image> AS <name>`", each.line
        )
    for name, value in each.flags:
        if name != "platform" or not (value == PLATFORM or re.fullmatch(r"\$\{?(BUILD|TARGET)PLATFORM\}?", value)):
            raise DockerfileProblem(
                f"FROM --{name}={value[:40]}: images are built for the platform of the builder alone; remove it",
                each.line,
            )
    word = words[0]
    if word.lower() not in stages and word != NOTHING:
        reference = _resolved(word, known, each.line)
        if reference.lower() not in stages and reference != NOTHING:
            yield Base(word, reference, each.line)
    if named:
        stages.add(words[2].lower())


def _copied_from(each: Instruction, stages: set[str]) -> Iterator[Base]:
    """Images named by COPY --from and RUN --mount=from; a number or a stage's name is none."""
    for name, value in each.flags:
        sources = [value] if name == "from" else []
        if name == "mount":
            sources = [part.removeprefix("from=") for part in value.split(",") if part.startswith("from=")]
        for source in sources:
            if source and not source.isdecimal() and source.lower() not in stages:
                yield Base(source, _resolved(source, {}, each.line), each.line)


def _resolved(token: str, known: Mapping[str, str], line: int) -> str:
    """`$A`, `${A}`, `${A:-else}` and `${A:+then}` with what ARG lines before the first FROM and the settings say."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = known.get(name, "")
        if match[3]:
            other = match[4] or ""
            return (found or other) if match[3] == ":-" else (other if found else "")
        if name not in known:
            raise DockerfileProblem(
                f"{token[:80]}: {name} has no value; give it a default in an ARG line before the first FROM, "
                f"or under `args` of the image in .towline.yaml",
                line,
            )
        return found

    resolved = _VARIABLE.sub(value, token)
    if "$" in resolved or not resolved:
        raise DockerfileProblem(f"{token[:80]}: cannot be resolved before the build; name the image plainly", line)
    return resolved


def _refuse_remote(each: Instruction) -> None:
    keyword, _, rest = each.rest.partition(" ") if each.keyword == "ONBUILD" else (each.keyword, "", each.rest)
    sources = _WORD.findall(rest)[:-1]
    if keyword.upper() == "ADD" and any(_REMOTE.match(word) for word in sources):
        raise DockerfileProblem(
            "ADD from an address: a build has no network; commit the file to the repository and COPY it", each.line
        )
