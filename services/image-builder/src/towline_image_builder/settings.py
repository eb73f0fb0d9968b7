"""Settings of the image-builder. Credentials stand in files that are named here, never in the settings themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_ADDRESS = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")


def _address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise ValueError("expected `host` or `host:port`, without scheme or path")
    return text


Address = Annotated[str, AfterValidator(_address)]


class RegistryAccess(Section):
    """How to speak to one registry."""

    address: Address = Field(description="`host` or `host:port`, as images are named by it.")
    plain_http: bool | None = Field(
        None, description="Speak HTTP without TLS. Left away: only with a loopback address, where it is the rule."
    )
    user: str | None = Field(None, description="Who to log in as; left away: anonymous.")
    password_file: Path | None = Field(None, description="File whose first line is the password or token of `user`.")
    token_hosts: tuple[str, ...] = Field(
        ("auth.docker.io",),
        description="Hosts that this registry may send a login to, besides itself and domains above its own.",
    )


class PushRegistry(RegistryAccess):
    """Where images of gate candidates go."""

    prefix: str = Field(
        "",
        pattern=r"^([a-z0-9]+([._-][a-z0-9]+)*/)*$",
        description="Put before an image's name, with a slash at the end: `team/` pushes `shop` to `team/shop`.",
    )


class BaseSource(RegistryAccess):
    """A registry that base images may come from."""

    path: str = Field(
        "",
        pattern=r"^([a-z0-9]+([._-]+[a-z0-9]+)*(/|$))*$",
        description="Only repositories below this path, such as `library`; empty allows the whole registry.",
    )
    mirror: RegistryAccess | None = Field(
        None, description="Fetch from here instead, under the same repository names; credentials are the mirror's own."
    )


class Limits(Section):
    """What one build may use."""

    seconds: float = Field(900.0, gt=0, description="Wall time of one build, seconds.")
    memory_mib: int = Field(2048, ge=64, description="Memory of all its processes and scratch files, MiB.")
    processes: int = Field(512, ge=16, description="Processes and threads at once.")
    cpus: float | None = Field(None, gt=0, description="Processors' worth of time; left away: not limited.")
    disk_mib: int = Field(8192, ge=64, description="Disk that a build and its image take, MiB.")
    image_mib: int = Field(4096, ge=1, description="Size of an image as pushed, MiB.")
    log_kib: int = Field(1024, ge=16, description="Kept output of a build, KiB: its beginning and its end.")


class ImageBuilderSettings(Section):
    """Settings under `image_builder`."""

    registry: PushRegistry | None = Field(
        None, description="Where images are pushed to; left away, a candidate with images ends in an error."
    )
    bases: tuple[BaseSource, ...] = Field(
        (BaseSource(address="docker.io", path="library"),),
        description="Where base images may come from; the registry that is pushed to is always one of them.",
    )
    user: str = Field(
        "towline-build", description="System user that builds run as; has ranges in /etc/subuid and /etc/subgid."
    )
    storage: Literal["auto", "overlay", "vfs"] = Field(
        "auto", description="How layers are stacked: overlay is fast, vfs works everywhere; auto tries overlay once."
    )
    parallel_builds: int = Field(1, ge=1, le=64, description="Builds at once in this process.")
    parallel_pushes: int = Field(4, ge=1, le=64, description="Uploads at once in this process.")
    limits: Limits = Limits()
