"""Names of things. An id derives from its cause, so a replay names the same things again.

repo         `<host>/<owner>/<name>`, for plain Git `<host>/<path without .git>`
change       `<repo>!<number or topic>`
candidate    the commit id of a computed merge
run          `<candidate[:12]>-<hash of pipeline[:8]>`
application  `<cluster>/<namespace>/<name>`
event id     first 32 hex digits of SHA-256(source, cause id, type, subject, index)
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType
from urllib.parse import quote

RepoId = NewType("RepoId", str)
ChangeId = NewType("ChangeId", str)
RunId = NewType("RunId", str)
ApplicationId = NewType("ApplicationId", str)
EventId = NewType("EventId", str)
Digest = NewType("Digest", str)
"""`sha256:<64 hex digits>`."""

_OBJECT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(*parts: str | bytes) -> str:
    """SHA-256 in hex over the parts, each preceded by its length so that no two lists collide."""
    sha = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        sha.update(len(raw).to_bytes(8, "big"))
        sha.update(raw)
    return sha.hexdigest()


def event_id(source: str, cause: str, event_type: str, subject: str, index: int) -> EventId:
    return EventId(digest_of(source, cause, event_type, subject, str(index))[:32])


def change_id(repo: str, topic: str) -> ChangeId:
    return ChangeId(f"{repo}!{topic}")


def run_id(candidate: str, pipeline: str) -> RunId:
    """`pipeline` is the canonical JSON of the resolved jobs."""
    return RunId(f"{candidate[:12]}-{digest_of(pipeline)[:8]}")


def application_id(cluster: str, namespace: str, name: str) -> ApplicationId:
    return ApplicationId(f"{cluster}/{namespace}/{name}")


def image_purl(reference: str) -> str:
    """Package URL (type `oci`) of `<registry>/<repository>@<digest>`, as CDEvents names an artifact."""
    repository, _, digest = reference.rpartition("@")
    name = repository.rpartition("/")[2].lower()
    return f"pkg:oci/{name}@{digest}?repository_url={quote(repository, safe=':')}"


def is_object_id(text: str) -> bool:
    """True for a full Git object id, SHA-1 or SHA-256, in lower case."""
    return _OBJECT_ID.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None
