"""`towline validate`: the server's own checks on a work tree."""

from __future__ import annotations

import sys
from pathlib import Path

from towline.errors import BadInput
from towline_ci_runner.local import check_folder
from towline_ci_runner.settings import CiRunnerSettings
from towline_cli.lab.cache import Cache
from towline_cli.view.printable import printable


def validate(folder: Path) -> int:
    """Print every problem as `file:line: message`; 0 when there is none, else 1."""
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder; give the top of a work tree")
    problems = check_folder(folder, CiRunnerSettings(kustomize=Cache.default().kustomize()))
    for problem in problems:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in str(problem).splitlines()))
    said = (
        f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        if problems
        else "valid: nothing to complain about"
    )
    sys.stdout.write(said + "\n")
    return 1 if problems else 0
