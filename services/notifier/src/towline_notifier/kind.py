"""The kinds of notices there are: the words that routes match on and receivers switch by."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    CHANGE_MERGED = "change-merged"
    CANDIDATE_REJECTED = "candidate-rejected"
    PIPELINE_FAILED = "pipeline-failed"
    IMAGE_FAILED = "image-failed"
    SERVICE_DEPLOYED = "service-deployed"
    SERVICE_UPGRADED = "service-upgraded"
    SERVICE_REMOVED = "service-removed"
    DRIFT_REPAIRED = "drift-repaired"
    SYNC_FAILED = "sync-failed"
    INCIDENT_DETECTED = "incident-detected"
    INCIDENT_RESOLVED = "incident-resolved"


PAIRED = frozenset({Kind.INCIDENT_DETECTED, Kind.INCIDENT_RESOLVED})
"""Whoever got the first must get the second, also when the channel was away for long."""
