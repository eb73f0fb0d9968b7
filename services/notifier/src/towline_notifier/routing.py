"""Who hears of a notice: the settings as a pure question."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase

from towline.events import Severity
from towline_notifier.kind import PAIRED
from towline_notifier.messages import Draft
from towline_notifier.settings import Match, NotifierSettings

_ORDER = (Severity.INFO, Severity.WARNING, Severity.ERROR)


@dataclass(frozen=True, slots=True)
class Policy:
    """What `decide` needs of the settings."""

    settings: NotifierSettings

    @property
    def horizon(self) -> timedelta:
        return timedelta(seconds=self.settings.horizon_seconds)

    @property
    def quiet(self) -> timedelta:
        return timedelta(seconds=self.settings.quiet_seconds)

    def lifetime(self, kind: str) -> timedelta:
        """How long a rendered notice of this kind waits for its channel."""
        return timedelta(seconds=self.settings.patience_seconds) if kind in PAIRED else self.horizon

    def is_channel(self, name: str) -> bool:
        return name in self.settings.channels

    def channels_for(self, draft: Draft) -> tuple[str, ...]:
        """Each channel once, in the order of the settings."""
        if not self.settings.routes:
            return tuple(self.settings.channels)
        named = (name for route in self.settings.routes if matches(route.match, draft) for name in route.channels)
        return tuple(dict.fromkeys(named))


def matches(match: Match, draft: Draft) -> bool:
    return (
        (not match.events or draft.kind in match.events)
        and _any_glob(match.repos, draft.repo)
        and _any_glob(match.applications, draft.application or "")
        and _at_least(draft.severity, match.severity)
    )


def _any_glob(patterns: tuple[str, ...], text: str) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def _at_least(severity: Severity, least: Severity) -> bool:
    """A severity this version does not know is told rather than lost."""
    return severity not in _ORDER or _ORDER.index(severity) >= _ORDER.index(least)
