"""Text of strangers (commit titles, job output, files of a work tree) as one line that a terminal only shows.

Rule: no character leaves here that a terminal obeys, or that makes a line read as something else than it says.
"""

from __future__ import annotations


def printable(line: str) -> str:
    """Control and direction characters become blanks: an escape sequence is then seen, not done."""
    return line if line.isprintable() else "".join(char if char.isprintable() else " " for char in line)
