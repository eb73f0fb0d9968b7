"""The artifact store: what goes in comes out, or is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import BadInput
from towline.store import Corrupt, FolderStore, NotStored


@given(content=st.binary(max_size=1000))
def test_what_is_stored_is_found_under_its_hash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    store = FolderStore(tmp_path_factory.mktemp("store"))
    digest = store.put(content)
    assert store.put(content) == digest
    assert store.get(digest) == content


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    digest = store.put(b"before")
    store.path(digest).write_bytes(b"after")
    with pytest.raises(Corrupt):
        store.get(digest)


def test_an_unknown_digest_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotStored, match="sha256:0000"):
        FolderStore(tmp_path).get("sha256:" + "0" * 64)


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:..", "sha256:" + "0" * 63 + "/", ""])
def test_what_is_no_digest_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        FolderStore(tmp_path).get(name)
