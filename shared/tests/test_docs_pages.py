"""Pages that people wrote: links lead somewhere, commands exist, what is to be copied works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
import yaml

from towline import flow
from towline.project.read import read_project
from towline.settings import load
from towline_cli.main import app
from towline_cli.settings import TowlineSettings
from towline_reconciler.api.application import ApplicationSpec

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("services/*/README.md"))]
COMMANDS = set(getattr(typer.main.get_command(app), "commands"))  # noqa: B009 - a group of commands, not typed as one


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_to_it_and_to_its_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    said = re.findall(r"(?:^|`|/)towline (\w[\w-]*)", text, re.MULTILINE)
    assert set(said) - COMMANDS == set()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_names_a_folder_of_the_machine_it_was_written_on(page: Path) -> None:
    assert re.findall(r"/root/|/work/", page.read_text()) == []


def test_the_readme_shows_a_pipeline_that_can_be_read() -> None:
    [example] = re.findall(r"```yaml\n(version: 1.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    project = read_project(example.encode())
    assert [job.name for job in project.jobs] == ["unit", "smoke"]


def test_the_settings_and_the_application_of_the_first_page_are_valid(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operate" / "start.md").read_text()
    settings, application = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "towline.yaml"
    file.write_text(settings)
    assert load(TowlineSettings, file, {}).notifier.channels["team"].kind == "slack"
    spec = ApplicationSpec.model_validate(yaml.safe_load(application)["spec"])
    assert spec.source.url == "/srv/git/app.git"


def test_the_readme_names_the_event_under_each_arrow() -> None:
    first_screen = "".join((ROOT / "README.md").read_text().splitlines(keepends=True)[:12])
    known = {event.__name__ for stream in flow.STREAMS for event in stream.events}
    assert len(set(re.findall(r"\b[A-Z]\w+[a-z][A-Z]\w+\b", first_screen)) & known) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_of_a_dead_letter_command_exists(page: Path) -> None:
    group = getattr(typer.main.get_command(app), "commands")["dead"].commands  # noqa: B009 - as above
    for command, said in re.findall(r"towline dead (\w+)([^`\n;|]*)", page.read_text()):
        assert command in group
        known = {option for parameter in group[command].params for option in parameter.opts}
        assert set(re.findall(r" (--[a-z-]+)", said)) - known - {"--help"} == set(), command
