"""Text that strangers wrote (commit titles, branch names, messages of failing tests) made fit to be shown.

Rule: what leaves here is valid Unicode without control or direction characters, holds no credential that `redact`
knows, and is no longer than asked. It is not escaped: each channel escapes for itself, last of all.
"""

from __future__ import annotations

import re
import unicodedata

from towline.errors import redact

# Direction marks can make a line read as something else than it says (Trojan Source, CVE-2021-42574).
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_ELLIPSIS = "…"


def line(text: str, limit: int) -> str:
    """One line: white space and line ends of any kind become one space each."""
    return clamp(redact(" ".join(_plain(text).split())), limit)


def block(text: str, limit: int) -> str:
    """Several lines; only `\\n` ends one."""
    lines = (" ".join(part.split(" ")).rstrip() for part in _plain(text).splitlines())
    return clamp(redact("\n".join(lines).strip()), limit)


def clamp(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + _ELLIPSIS


def _plain(text: str) -> str:
    text = _DIRECTION.sub("", text.encode(errors="replace").decode())
    return "".join(" " if char != "\n" and unicodedata.category(char) == "Cc" else char for char in text)
