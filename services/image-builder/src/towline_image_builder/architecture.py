"""The one platform that images are built for: that of this machine, by its OCI name."""

from __future__ import annotations

import os

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
PLATFORM = f"linux/{ARCHITECTURE}"
