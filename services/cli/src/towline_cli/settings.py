"""Everything one process of Towline can be told, in one YAML file: a section per service, and what they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ConfigDict, Field

from towline.bus.settings import BusSettings
from towline.settings import load
from towline_ci_runner.settings import CiRunnerSettings
from towline_git_watcher.settings import GitWatcherSettings
from towline_image_builder.settings import ImageBuilderSettings
from towline_notifier.settings import NotifierSettings
from towline_reconciler.settings import ReconcilerSettings


class TowlineSettings(BusSettings):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(Path("towline-data"), description="Folder for mirrors, caches and the artifact store.")
    member: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="Name of this process among those that run the same services; it must stay over restarts. "
        "By default the host's name, and a digest of the folder `data`.",
    )
    listen: str = Field(
        "127.0.0.1:8080", description="Address of /healthz, /readyz and /metrics; port 0 takes a free one."
    )
    log_level: str = Field("info", description="debug, info, warning or error.")
    git_watcher: GitWatcherSettings = GitWatcherSettings()
    ci_runner: CiRunnerSettings = CiRunnerSettings()
    image_builder: ImageBuilderSettings = ImageBuilderSettings()
    reconciler: ReconcilerSettings = ReconcilerSettings()
    notifier: NotifierSettings = NotifierSettings()


NOT_SETTINGS = frozenset({"TOWLINE_HOME", "TOWLINE_CACHE", "TOWLINE_PROFILE", "TOWLINE_KILL_AT"})
"""Variables that say where things are kept or how they are tested, not how a service behaves."""


def read(config: Path | None, environ: Mapping[str, str]) -> TowlineSettings:
    """Settings from a file and the environment; raises BadInput with every wrong key."""
    told = {name: value for name, value in environ.items() if name not in NOT_SETTINGS}
    return load(TowlineSettings, config, told)
