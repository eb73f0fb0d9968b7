"""Image references: `[registry/]repository[:tag][@digest]`, read as every container tool reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from towline.errors import BadInput

DEFAULT_REGISTRY = "docker.io"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MAX = 512


@dataclass(frozen=True, slots=True)
class Reference:
    """`tag` is None only when a digest is given without one."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        return f"{self.registry}/{self.repository}"

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest where there is one."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Raises BadInput that says what a reference looks like."""
    rest, _, digest = text.partition("@")
    head, slash, tail = rest.partition("/")
    registry, path = (head, tail) if slash and _is_host(head) else (DEFAULT_REGISTRY, rest)
    last = path.rpartition("/")[2]
    repository, tag = path, None
    if ":" in last:
        repository, _, tag = path.rpartition(":")
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    named = len(text) <= _MAX and re.fullmatch(_HOST, registry) and _REPOSITORY.fullmatch(repository)
    pinned = (tag is None or _TAG.fullmatch(tag)) and ("@" not in text or _DIGEST.fullmatch(digest))
    if not (named and pinned):
        raise BadInput(f"{text[:120]!r} is no image reference; expected [registry/]repository[:tag][@sha256:…]")
    return Reference(registry, repository, tag or (None if digest else "latest"), digest or None)


def _is_host(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost"
