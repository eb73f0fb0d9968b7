"""The `lint` check: yamllint on `.towline.yaml` and the manifests. Runs in a jailed process of its own.

yamllint is GPL-3.0-or-later; only this module imports it, and it runs in no process that does anything else.
What must hold: only errors fail a change. A repository's own `.yamllint` is taken, for style is its own business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from yamllint import linter  # type: ignore[import-untyped]
from yamllint.config import YamlLintConfig, YamlLintConfigError  # type: ignore[import-untyped]

from towline_ci_runner.checks.found import MOST_PROBLEMS, Found
from towline_ci_runner.checks.lint_files import OWN, paths

DEFAULT = """
extends: relaxed
rules:
  line-length: disable
  trailing-spaces: {level: warning}
  new-line-at-end-of-file: {level: warning}
  new-lines: {level: warning}
  empty-lines: {level: warning}
  key-duplicates: {level: error}
"""


def check(files: Mapping[str, bytes], manifests: Iterable[str]) -> Found:
    found = Found()
    own = next((name for name in OWN if name in files), None)
    try:
        config = YamlLintConfig(content=files[own].decode() if own else DEFAULT)
    except (YamlLintConfigError, UnicodeDecodeError) as error:
        found.add(f"yamllint cannot use this configuration: {error}", own)
        return found
    warnings = 0
    for path in paths(files, manifests):
        if config.is_file_ignored(path):
            continue
        try:
            text = files[path].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            found.add("the file is not UTF-8 text", path, files[path].count(b"\n", 0, error.start) + 1)
            continue
        for problem in linter.run(text, config, path):
            if problem.level == "error":
                found.add(f"{problem.desc} ({problem.rule})" if problem.rule else problem.desc, path, problem.line)
            else:
                warnings += 1
        if len(found.problems) > MOST_PROBLEMS:
            break
    if warnings:
        found.notes.append(f"{warnings} warning{'s' if warnings != 1 else ''}")
    del found.problems[MOST_PROBLEMS:]
    return found
