"""The `ci_runner:` section: what jobs may use, and where Kustomize is."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIB = 1 << 20


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class JobLimits(Strict):
    """Of one job; its time is the job's own `timeout`."""

    memory_mib: int = Field(2048, ge=64, description="Memory of all its processes together, its files included.")
    processes: int = Field(512, ge=16, le=30_000, description="Processes and threads at once.")
    cpus: float = Field(2.0, gt=0, description="Processors' worth of time.")
    log_kib: int = Field(4096, ge=64, description="Kept of its output; what is cut out of the middle is said.")
    output_mib: int = Field(64, ge=1, description="Output after which it is ended.")


class CiRunnerSettings(Strict):
    parallel_jobs: int = Field(2, ge=1, le=100, description="Declared jobs at once; others wait.")
    ready_sandboxes: int = Field(1, ge=0, le=100, description="Sandboxes started before a job needs them.")
    check_workers: int = Field(1, ge=1, le=20, description="Jailed processes for each of the built-in checks.")
    check_seconds: float = Field(20.0, gt=0, le=600, description="Seconds that one built-in check may take.")
    check_memory_mib: int = Field(512, ge=128, description="Memory that one built-in check may use.")
    kubernetes: str = Field(
        "1.37", pattern=r"^1\.[0-9]{2}$", description="Kubernetes version whose schemas manifests must fit."
    )
    kustomize: Path | None = Field(None, description="The kustomize program; left away, it is looked for on the PATH.")
    limits: JobLimits = Field(JobLimits(), description="What one job may use.")

    @model_validator(mode="after")
    def _known_kubernetes(self) -> CiRunnerSettings:
        from towline_ci_runner.checks.schema_files import known_versions

        if self.kubernetes not in (known := known_versions()):
            raise ValueError(f"kubernetes: schemas are here for {known[0]} to {known[-1]}, not for {self.kubernetes}")
        return self
