"""The `reconciler:` section: which cluster, how often Git is asked, and how much is done at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from towline_reconciler.api.application import Duration

Namespace = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]


class ReconcilerSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster: str = Field(
        "local",
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$",
        description="Name of the cluster in events: the first part of an application's id.",
    )
    kubeconfig: Path | None = Field(None, description="File to log in with; absent: the Pod's service account.")
    context: str | None = Field(None, description="Context of the kubeconfig; absent: its current one.")
    namespaces: tuple[Namespace, ...] = Field(
        (), description="Namespaces whose Applications are followed, and to which they may deploy; none: all."
    )
    install_crd: bool = Field(True, description="Put the Application CRD into the cluster when it is missing or older.")
    kustomize: str | None = Field(
        "kustomize", description="Kustomize program, a path or a name on the PATH; null refuses kustomizations."
    )
    interval: Duration = Field("60s", description="How often a source is asked when its Application does not say.")
    concurrency: int = Field(4, ge=1, le=64, description="Syncs at once.")
    requests: int = Field(16, ge=1, le=128, description="Requests of one sync to the API server at once.")
    renderers: int = Field(1, ge=1, le=16, description="Warm jailed workers that render, about 25 MB each.")
    render_seconds: float = Field(20.0, gt=0, le=600, description="Seconds that one render may take.")
    render_memory_mib: int = Field(512, ge=64, le=8192, description="Memory of a worker and all it starts, in MiB.")
    render_output_mib: int = Field(16, ge=1, le=256, description="Size of what one render may give, in MiB.")
    source_mib: int = Field(64, ge=1, le=1024, description="Size of the folders that one application is made of, MiB.")
