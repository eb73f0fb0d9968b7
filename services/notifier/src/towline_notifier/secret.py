"""Secrets by reference: from a file, from the environment, or as they stand in the settings.

A file is read for every use, so a rotated secret is taken up without a restart. No message names a value.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from towline.errors import BadInput, DependencyDown


@dataclass(frozen=True, slots=True)
class Secret:
    """Exactly one of the three is set. `what` names the setting in messages: `notifier.channels.ops.url`."""

    what: str
    value: SecretStr | None = None
    file: Path | None = None
    env: str | None = None

    def check(self, environ: Mapping[str, str] = os.environ) -> str:
        """The secret at start, where a person still looks. Raises BadInput when the reference leads nowhere."""
        if self.value is not None:
            return self.value.get_secret_value().strip()
        if self.file is None:
            if not environ.get(self.env or "", "").strip():
                raise BadInput(f"{self.what}_env names the environment variable {self.env}, which is not set; set it")
            return environ[self.env or ""].strip()
        try:
            content = self.file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise BadInput(f"{self.what}_file names {self.file}, which cannot be read: {reason}") from None
        if not content:
            raise BadInput(f"{self.what}_file names {self.file}, which is empty; write the secret into it")
        return content

    async def read(self, environ: Mapping[str, str] = os.environ) -> str:
        """The secret now. Raises DependencyDown while it cannot be had, as during a rotation."""
        if self.value is not None:
            return self.value.get_secret_value().strip()
        if self.file is not None:
            try:
                content = (await asyncio.to_thread(self.file.read_text)).strip()
            except (OSError, UnicodeDecodeError):
                content = ""
        else:
            content = environ.get(self.env or "", "").strip()
        if not content:
            raise DependencyDown(f"{self.what} cannot be read now")
        return content
