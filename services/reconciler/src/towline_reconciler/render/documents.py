"""The objects of a manifest, as far as a sync must be able to rely on them. Runs in the jail."""

from __future__ import annotations

from collections.abc import Iterator

from towline.manifests import BadDocument, Document, read
from towline.manifests import objects as taken_apart


def objects(text: bytes) -> Iterator[Document]:
    """Raises BadDocument for the first that cannot be applied."""
    for document in taken_apart(read(text)):
        _check_labels(document)
        yield document


def _check_labels(document: Document) -> None:
    """The agent adds labels of its own to them."""
    meta = document.value["metadata"]
    for key in ("labels", "annotations"):
        pairs = meta.get(key) or {}
        if not isinstance(pairs, dict) or not all(isinstance(each, str) for each in pairs.values()):
            name = f"{document.value['kind'][:80]} {meta['name'][:100]}"
            line = document.nearest_line(["metadata", key])
            raise BadDocument(f"{name}: metadata.{key} maps text to text; quote numbers", line)
