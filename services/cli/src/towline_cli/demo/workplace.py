"""A developer's clone of the demo's repository, used through the git command as a developer would."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path

AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def write_application(folder: Path, registry: str, base_image: str) -> None:
    """The demo's application, built on `base_image`, its image references pointing at `registry`."""
    with as_file(files("towline_cli.demo") / "app") as template:
        shutil.copytree(template, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "Dockerfile", folder / "deploy" / "kustomization.yaml"):
        path.write_text(path.read_text().replace("@REGISTRY@", registry).replace("@BASE@", base_image))


class Refused(Exception):
    """A push was refused; the message is what the server said."""


class Workplace:
    def __init__(self, folder: Path, remote: Path) -> None:
        self.folder = folder
        self.remote = remote

    def git(self, *args: str, cwd: Path | None = None) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **AUTHOR}
        done = subprocess.run(["git", *args], cwd=cwd or self.folder, env=env, capture_output=True, text=True)
        if done.returncode != 0:
            raise Refused(done.stderr.strip())
        return done.stdout.strip()

    def clone(self) -> None:
        self.folder.mkdir(parents=True)
        self.git("clone", "--quiet", str(self.remote), ".")

    def commit(self, title: str, edits: Mapping[str, tuple[str, str]]) -> str:
        """Branch off the newest main, replace text in files (path → old, new) and commit; returns the commit id."""
        self.git("fetch", "--quiet", "origin")
        self.git("checkout", "--quiet", "--detach", "origin/main")
        for path, (old, new) in edits.items():
            file = self.folder / path
            text = file.read_text()
            if old not in text:
                raise ValueError(f"{path} has no {old!r}")
            file.write_text(text.replace(old, new))
        self.git("commit", "--quiet", "--all", "--message", title)
        return self.git("rev-parse", "HEAD")

    def push(self, ref: str) -> None:
        """Raises Refused with the server's words."""
        self.git("push", "--quiet", "origin", f"HEAD:{ref}")

    def main(self) -> str:
        return self.git("rev-parse", "refs/heads/main", cwd=self.remote)
