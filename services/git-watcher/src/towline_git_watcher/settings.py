"""The `git_watcher:` section: which repositories are watched, which branches are gated, and within which limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, model_validator

from towline.errors import BadInput
from towline.git import Remote, is_ref, remote, repo_id
from towline.ids import RepoId
from towline.project.model import seconds_of

CHANGES = "for"
"""The folder below refs/heads in which changes are pushed; no gated branch may live there."""


def _branch(name: str) -> str:
    if not is_ref(f"refs/heads/{name}"):
        raise ValueError("a branch is named without refs/heads/, of letters, digits and ._-/")
    if name == CHANGES or name.startswith(f"{CHANGES}/"):
        raise ValueError(f"branches below {CHANGES}/ are where changes are pushed; they cannot be gated")
    return name


def _url(url: str) -> str:
    try:
        remote(url)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return url


def _duration(text: str) -> str:
    seconds_of(text)
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected host:port, such as 127.0.0.1:8081; port 0 takes a free one")
    return text


Branch = Annotated[str, AfterValidator(_branch)]
Duration = Annotated[str, AfterValidator(_duration)]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RepositorySettings(Strict):
    url: Annotated[str, AfterValidator(_url)] = Field(
        description="Absolute path, file://, ssh:// or https:// address; no password in it."
    )
    branches: tuple[Branch, ...] = Field(
        ("main",), min_length=1, description="Gated branches; changes of the first have the short ids."
    )
    poll: Duration = Field("30s", description="How often its refs are looked at, 10 % more or less: 30s, 5m.")
    hooks: bool | None = Field(
        None, description="Generate the hooks that guard it. Left away: where the repository is a folder of this host."
    )
    ca_file: FilePath | None = Field(
        None, description="PEM file of the authority that vouches for an https:// address. Left away: the machine's."
    )

    @model_validator(mode="after")
    def _fits_its_address(self) -> RepositorySettings:
        if self.hooks and self.remote.protocol != "file":
            raise ValueError("hooks can only be generated in a repository on this host; give its path, or hooks: false")
        if self.ca_file and self.remote.protocol != "https":
            raise ValueError("ca_file is for an https:// address alone; leave it away here")
        if len(set(self.branches)) != len(self.branches):
            raise ValueError("a branch stands twice in branches")
        return self

    @property
    def remote(self) -> Remote:
        return remote(self.url)

    @property
    def repo(self) -> RepoId:
        return repo_id(self.url)

    @property
    def with_hooks(self) -> bool:
        return self.hooks if self.hooks is not None else self.remote.protocol == "file"

    @property
    def poll_seconds(self) -> int:
        return seconds_of(self.poll)


class LimitSettings(Strict):
    open_changes: int = Field(300, ge=1, le=500, description="Open changes of one repository; those beyond wait.")
    tree_files: int = Field(100_000, ge=1, description="Files of one candidate.")
    tree_bytes: int = Field(256 << 20, ge=1, description="Bytes of one candidate, unpacked.")
    merge_seconds: float = Field(60.0, gt=0, description="Seconds for one merge with its snapshot.")
    git_seconds: float = Field(120.0, gt=0, description="Seconds for one fetch or push.")
    memory_bytes: int = Field(1 << 30, ge=64 << 20, description="Memory of one worker.")
    workers: int = Field(2, ge=1, le=32, description="Workers kept warm; each serves one repository at a time.")


class GitWatcherSettings(Strict):
    repositories: tuple[RepositorySettings, ...] = Field((), description="What is watched.")
    listen: Annotated[str, AfterValidator(_address)] | None = Field(
        "127.0.0.1:0",
        description="Address for the hints of hooks; port 0 takes a free one, null has none: polling alone.",
    )
    limits: LimitSettings = LimitSettings()

    @model_validator(mode="after")
    def _each_once(self) -> GitWatcherSettings:
        seen: dict[str, str] = {}
        for each in self.repositories:
            if each.repo in seen:
                raise ValueError(f"{each.url} and {seen[each.repo]} are the same repository, {each.repo}")
            seen[each.repo] = each.url
        return self
