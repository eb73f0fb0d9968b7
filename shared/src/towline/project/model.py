"""`.towline.yaml`: what a repository asks Towline to do. Read with `towline.project.read`.

The shapes here are what the file resolves to; events carry them, so no later stage reads the file again.
"""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Name = Annotated[
    str, Field(pattern=_NAME, description="Lower-case letters, digits and dashes, at most 63, no dash at the ends.")
]
MOST_JOBS, MOST_IMAGES = 100, 50
"""One record of a consumer's state keeps all of a candidate's jobs with how they went, and one event all its images."""


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a character NUL stands here, which no program can be given")
    return text


Text = Annotated[str, Field(min_length=1, max_length=65_536), AfterValidator(_no_nul)]
EnvValue = Annotated[str, AfterValidator(_no_nul)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


Glob = Annotated[str, Field(min_length=1, max_length=256)]
"""Short, because the time it takes to translate one grows with the square of its length."""


def _inside_repository(path: str) -> str:
    if path.startswith("/") or "\\" in path or any(ord(char) < 32 or ord(char) == 127 for char in path):
        raise ValueError("a path is relative to the top of the repository and uses /")
    if ".." in path.split("/"):
        raise ValueError("a path may not leave the repository")
    return posixpath.normpath(path)


RepoPath = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_inside_repository)]

_DURATION = re.compile(r"([0-9]{1,6})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
LONGEST_JOB = 24 * 3600
"""Seconds; a job holds the gate of everybody for as long as it runs."""


def seconds_of(text: str) -> int:
    """`90s`, `10m` or `1h` in seconds; raises ValueError with the accepted forms."""
    match = _DURATION.fullmatch(text)
    if not match or int(match[1]) == 0:
        raise ValueError("a duration is a whole number and a unit: 90s, 10m or 1h")
    return int(match[1]) * _SECONDS[match[2]]


def _duration(text: str) -> str:
    if seconds_of(text) > LONGEST_JOB:
        raise ValueError("a job may run for at most 24h")
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class Strict(BaseModel):
    """A value from the file; unknown keys are refused with the nearest valid name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class When(Strict):
    """All that is given must match for the job to run; otherwise it is skipped with a reason."""

    paths: tuple[Glob, ...] = Field((), description="Glob patterns; one changed file must match one of them.")
    branches: tuple[Glob, ...] = Field((), description="Glob patterns for the target branch.")


class Job(Strict):
    name: Name = Field(description="The key under `jobs`.")
    run: tuple[Text, ...] = Field(min_length=1, description="Shell lines, run by one `sh -e`; one string or a list.")
    needs: tuple[Name, ...] = Field((), description="Jobs that must have passed before.")
    when: When = Field(When(), description="Conditions; without them the job always runs.")
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, description="Environment of the job; no secrets.")
    timeout: Duration = Field("10m", description="Wall time: 90s, 10m, 1h.")


class KustomizePin(Strict):
    """The digest goes to the entry of `images` with this name in a kustomization file."""

    kustomize: RepoPath = Field(description="Path of the kustomization.yaml.")
    image: Text = Field(description="`name` of the entry under `images`.")


class YamlPin(Strict):
    """The whole reference goes to one field of a YAML file."""

    yaml: RepoPath = Field(description="Path of the file.")
    path: Text = Field(description="Dotted path of the field, list items by number: `spec.0.image`.")


Pin = KustomizePin | YamlPin


class ImageSpec(Strict):
    name: Name = Field(description="The key under `images`; also the name of the repository in the registry.")
    context: RepoPath = Field(".", description="Folder that the build may copy from.")
    dockerfile: RepoPath = Field("Dockerfile", description="Path from the top of the repository.")
    args: dict[EnvName, EnvValue] = Field(default_factory=dict, description="Build arguments; no secrets.")
    pins: tuple[Pin, ...] = Field((), description="Where the digest is written at landing.")


class Project(Strict):
    """The whole file. A repository without one gets the default: only the built-in checks."""

    version: Literal[1] = Field(1, description="Of this format.")
    jobs: tuple[Job, ...] = Field((), description="What tests a candidate, by name; at most 100.")
    images: tuple[ImageSpec, ...] = Field((), description="What is built and pinned, by name; at most 50.")
    manifests: tuple[RepoPath, ...] = Field((), description="Folders with Kubernetes manifests to check.")
