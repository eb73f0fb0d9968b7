"""Which instance a command works on, and the sentence when it cannot know."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from towline.errors import BadInput
from towline_cli import instances
from towline_cli.local import LocalInstance, Surroundings
from towline_cli.settings import read


def test_the_only_instance_needs_no_name(shop: Path) -> None:
    assert instances.config_of(None, None) == shop


def test_of_several_one_must_be_named(shop: Path, home: Path) -> None:
    (home / "other").mkdir()
    (home / "other" / instances.CONFIG).write_text("{}")

    with pytest.raises(BadInput, match="several instances, name one with --name: other, shop"):
        instances.config_of(None, None)
    assert instances.config_of(None, "shop") == shop


def test_an_unknown_name_is_answered_with_those_there_are(shop: Path) -> None:
    with pytest.raises(BadInput, match="there is no instance 'shpo'; there are: shop"):
        instances.config_of(None, "shpo")


def test_without_any_instance_the_way_to_one_is_said(home: Path) -> None:
    with pytest.raises(BadInput, match="start one with `towline up`"):
        instances.config_of(None, None)


def test_a_settings_file_in_the_folder_goes_first(shop: Path, tmp_path: Path) -> None:
    (tmp_path / instances.CONFIG).write_text("{}")

    assert instances.config_of(None, None) == Path(instances.CONFIG)


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc", "Shop", "-x", "a" * 32])
def test_a_name_cannot_leave_the_home_folder(home: Path, name: str) -> None:
    with pytest.raises(BadInput, match="is no instance name"):
        instances.folder(name)


def test_where_files_are_kept_is_no_setting(shop: Path) -> None:
    """`make` exports TOWLINE_CACHE to everything it starts."""
    assert read(shop, {"TOWLINE_CACHE": "/x", "TOWLINE_HOME": "/y", "TOWLINE_LOG_LEVEL": "debug"}).log_level == "debug"


def test_an_unknown_setting_is_answered_with_the_nearest_name(shop: Path) -> None:
    shop.write_text("git_watchr: {}\n")

    with pytest.raises(BadInput, match=r"towline.yaml:1: unknown setting git_watchr; did you mean git_watcher\?"):
        read(shop, {})


def test_settings_that_are_no_mapping_are_a_sentence(shop: Path) -> None:
    """They were a traceback."""
    shop.write_text("- bus\n")

    with pytest.raises(BadInput, match="is no mapping of settings"):
        instances.bus_of(shop)


def test_a_new_instance_has_a_repository_with_a_commit_and_settings_that_load(home: Path, tmp_path: Path) -> None:
    instance = LocalInstance("fresh")
    kubeconfig = tmp_path / "kubeconfig"
    around = Surroundings(
        registry="127.0.0.1:5000", kubeconfig=kubeconfig, webhook="http://127.0.0.1:1/", kustomize=Path("/bin/true")
    )

    instance.create(around)

    shown = subprocess.run(
        ["git", "-C", instance.repository, "log", "--format=%s", "main"], capture_output=True, text=True, check=True
    )
    assert shown.stdout == "Begin\n"
    settings = read(instance.config, {})
    assert [each.url for each in settings.git_watcher.repositories] == [str(instance.repository)]
    assert settings.image_builder.registry is not None
    assert settings.image_builder.registry.address == "127.0.0.1:5000"
    assert settings.reconciler.kubeconfig == kubeconfig
    assert list(settings.notifier.channels) == ["local"]
    assert instance.config.stat().st_mode & 0o077 == 0
    assert not instance.is_disposable


def test_what_is_there_is_never_made_again(home: Path) -> None:
    instance = LocalInstance("fresh")
    instance.create(Surroundings())
    before = instance.config.read_text()

    with pytest.raises(BadInput, match="'fresh' is there already"):
        instance.create(Surroundings(registry="127.0.0.1:5000"))

    assert instance.config.read_text() == before


def test_an_instance_that_was_made_half_is_made_anew(home: Path) -> None:
    instance = LocalInstance("half")
    instance.create(Surroundings())
    instance.config.unlink()

    def content(tree: Path) -> None:
        (tree / "app.py").write_text("1\n")

    instance.create(Surroundings(), content)

    listed = subprocess.run(
        ["git", "-C", instance.repository, "ls-tree", "--name-only", "main"], capture_output=True, text=True, check=True
    )
    assert listed.stdout == "app.py\n"


def test_one_process_at_a_time_runs_an_instance(home: Path) -> None:
    instance = LocalInstance("busy")
    with instance.only():
        found = instance.runner()
        assert found is not None
        with (
            pytest.raises(BadInput, match=rf"'busy' runs already \(process {found.pid}\); stop it with"),
            LocalInstance("busy").only(),
        ):
            pass
    assert instance.runner() is None
    with instance.only():
        pass


def test_a_process_that_died_holds_nothing(home: Path) -> None:
    instance = LocalInstance("dead")
    (home / "dead").mkdir(parents=True)
    (home / "dead" / "lock").write_text('{"pid": 1, "start": 12345678901}')

    assert instance.runner() is None
    assert instance.stop() == []
    with instance.only():
        pass


def test_settings_of_an_instance_are_yaml_that_a_person_can_edit(home: Path) -> None:
    instance = LocalInstance("fresh")
    instance.create(Surroundings(bus="kafka://127.0.0.1:9092"))

    assert instance.config.read_text().startswith("# ")
    assert yaml.safe_load(instance.config.read_text())["bus"] == "kafka://127.0.0.1:9092"
