"""What a build wrote is taken without trust: no link is followed, every blob is kept under the hash it has."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from towline_image_builder.bases import FetchedBase
from towline_image_builder.layout import (
    LAYER_TYPE,
    BadLayout,
    Descriptor,
    KeptImage,
    add_blob,
    forget_old,
    keep,
    load,
    write_index,
)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
BASE_CONTENT, OWN_CONTENT = b"the base's layer", b"the image's layer"
PACKED = gzip.compress(BASE_CONTENT, mtime=0)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob(layout: Path, name: str) -> Path:
    return layout / "blobs" / "sha256" / name.removeprefix("sha256:")


def test_the_oldest_images_go_and_one_that_is_being_kept_stays(tmp_path: Path) -> None:
    """A build of another key failed when its unfinished image was counted, and gone, at the wrong moment."""
    for age, name in enumerate(["new", "old", "oldest", "whole.part"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "replaced").symlink_to("nowhere")

    forget_old(tmp_path, 1)

    assert sorted(each.name for each in tmp_path.iterdir()) == ["new", "replaced", "whole.part"]


class Output:
    """An image on a base as the builder writes it: the base's layer stands there empty, by its content's hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        base = Descriptor(LAYER_TYPE, digest(BASE_CONTENT), 0)
        blob(folder, base.digest).parent.mkdir(parents=True)
        blob(folder, base.digest).touch()
        self.own = add_blob(folder, OWN_CONTENT, f"{LAYER_TYPE}+gzip")
        config = {"rootfs": {"type": "layers", "diff_ids": [base.digest, digest(b"unpacked")]}}
        self.config = add_blob(folder, json.dumps(config).encode(), CONFIG)
        self.write({"config": self.config.as_json(), "layers": [base.as_json(), self.own.as_json()]})

    def write(self, manifest: Any) -> None:
        self.manifest = manifest
        write_index(self.folder, add_blob(self.folder, json.dumps(manifest).encode(), MANIFEST))


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


@pytest.fixture
def base(tmp_path: Path) -> FetchedBase:
    layer = add_blob(tmp_path / "base", PACKED, f"{LAYER_TYPE}+gzip")
    return FetchedBase("sha256:base", tmp_path / "base", "id", {digest(BASE_CONTENT): layer}, "r.example/base")


@pytest.fixture
def taken(tmp_path: Path, base: FetchedBase) -> Callable[[Output], KeptImage]:
    return lambda output: keep(output.folder, tmp_path / "kept" / "key", [base], most_bytes=1 << 20)


def test_layers_of_the_base_become_the_bases_own_blobs(
    output: Output, base: FetchedBase, taken: Callable[[Output], KeptImage]
) -> None:
    image = taken(output)

    layers = json.loads(image.manifest)["layers"]
    packed = base.layers[digest(BASE_CONTENT)]
    assert layers == [packed.as_json(), output.own.as_json()]
    assert image.near == {packed.digest: ("r.example/base",)}
    assert [blob(image.folder, each.digest).read_bytes() for each in image.blobs[1:]] == [PACKED, OWN_CONTENT]
    assert image.digest == digest(image.manifest)


def test_an_image_is_loaded_as_it_was_kept(output: Output, taken: Callable[[Output], KeptImage]) -> None:
    image = taken(output)

    assert load(image.folder) == image


@pytest.mark.parametrize("gone", ["index.json", "near.json", "blob"])
def test_an_image_that_is_not_whole_is_not_there(
    output: Output, taken: Callable[[Output], KeptImage], gone: str
) -> None:
    image = taken(output)
    (blob(image.folder, image.blobs[2].digest) if gone == "blob" else image.folder / gone).unlink()

    assert load(image.folder) is None


def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(OWN_CONTENT)
    return path


def _linked_layer(output: Output, tmp_path: Path) -> None:
    path = blob(output.folder, output.own.digest)
    path.unlink()
    path.symlink_to(secret(tmp_path))


def _linked_folder(output: Output, tmp_path: Path) -> None:
    (output.folder / "blobs").rename(tmp_path / "elsewhere")
    (output.folder / "blobs").symlink_to(tmp_path / "elsewhere")


def _linked_index(output: Output, tmp_path: Path) -> None:
    (output.folder / "index.json").rename(tmp_path / "index.json")
    (output.folder / "index.json").symlink_to(tmp_path / "index.json")


def _a_pipe(output: Output, _: Path) -> None:
    path = blob(output.folder, output.own.digest)
    path.unlink()
    os.mkfifo(path)


def _another_content(output: Output, _: Path) -> None:
    blob(output.folder, output.own.digest).write_bytes(b"something else")


def _way_out(output: Output, _: Path) -> None:
    output.write({**output.manifest, "config": {**output.config.as_json(), "digest": "sha256:../../../secret"}})


def _a_layer_too_few(output: Output, _: Path) -> None:
    output.write({**output.manifest, "layers": output.manifest["layers"][:1]})


def _no_manifest(output: Output, _: Path) -> None:
    output.write(["surprise"])


def _strange_layer(output: Output, _: Path) -> None:
    layers = [output.manifest["layers"][0], {**output.own.as_json(), "mediaType": "text/html"}]
    output.write({**output.manifest, "layers": layers})


def _endless_json(output: Output, _: Path) -> None:
    (output.folder / "index.json").write_bytes(b" " * (5 << 20))


def _too_large(output: Output, _: Path) -> None:
    content = os.urandom(2 << 20)
    layers = [output.manifest["layers"][0], add_blob(output.folder, content, LAYER_TYPE).as_json()]
    output.write({**output.manifest, "layers": layers})


@pytest.mark.parametrize(
    "spoil",
    [
        _linked_layer,
        _linked_folder,
        _linked_index,
        _a_pipe,
        _another_content,
        _way_out,
        _a_layer_too_few,
        _no_manifest,
        _strange_layer,
        _endless_json,
        _too_large,
    ],
)
def test_hostile_output_is_refused_and_nothing_of_it_is_kept(
    output: Output,
    taken: Callable[[Output], KeptImage],
    tmp_path: Path,
    spoil: Callable[[Output, Path], None],
) -> None:
    spoil(output, tmp_path)

    with pytest.raises(BadLayout):
        taken(output)
    assert not list((tmp_path / "kept").iterdir())
