"""The render workers: what comes out of plain files, and that a program run by one reaches nothing of the host."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from towline.snapshot import EXECUTABLE, FILE, SYMLINK, Entry
from towline_reconciler.render import pool
from towline_reconciler.render.pool import Answer, Limits, Renderer

MAP = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n"
LIMITS = Limits(seconds=2.0, memory_bytes=128 << 20, output_bytes=1 << 20)

PROBE = r"""#!/bin/sh
# Stands in for a Kustomize that hostile input has taken over: what can it reach?
say() { printf '  %s: "%s"\n' "$1" "$2"; }
printf 'apiVersion: v1\nkind: ConfigMap\nmetadata: {name: probe}\ndata:\n'
say shadow "$(head -c 4 /etc/shadow 2>/dev/null)"
say secret "$(cat @SECRET@ 2>/dev/null)"
say variable "$TOWLINE_SECRET"
say parent "$(tr '\0' ' ' 2>/dev/null </proc/1/environ | head -c 40)"
say network "$(tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' ' | tr '\n' ' ')"
say uid "$(id -u)"
say left "$(ls /tmp | grep -v tree)"
touch /tmp/left-behind
"""


@pytest.fixture
async def renderer() -> AsyncIterator[Renderer]:
    made = Renderer(LIMITS, kustomize=None)
    yield made
    await made.close()


async def rendered(renderer: Renderer, **files: bytes) -> Answer:
    entries = [Entry(f"deploy/{name}.yaml", FILE, content) for name, content in files.items()]
    return await renderer.render("deploy", "auto", entries)


def probe(folder: Path) -> tuple[Path, list[Entry]]:
    """A program that looks around, and a kustomization to run it on."""
    secret = folder / "kubeconfig"
    secret.write_text("credential")
    program = folder / "probe"
    program.write_text(PROBE.replace("@SECRET@", str(secret)))
    program.chmod(0o755)
    return program, [Entry("deploy/kustomization.yaml", FILE, b"resources: []\n")]


async def test_plain_files_give_their_objects_with_file_and_line(renderer: Renderer) -> None:
    answer = await rendered(
        renderer, b=b"---\n" + MAP + b"---\n" + MAP.replace(b"name: a", b"name: b"), a=b"# nothing\n"
    )
    found = [(each.body["metadata"]["name"], each.file, each.line) for each in answer.rendered]
    assert found == [("a", "deploy/b.yaml", 2), ("b", "deploy/b.yaml", 7)]


async def test_one_bad_file_spoils_the_render_and_every_bad_one_is_named(renderer: Renderer) -> None:
    answer = await rendered(renderer, good=MAP, bad=b"a: [\n", worse=b"kind: ConfigMap\n")
    assert answer.rendered == ()
    assert [(each.file, each.line is not None) for each in answer.problems] == [
        ("deploy/bad.yaml", True),
        ("deploy/worse.yaml", True),
    ]


async def test_a_worker_survives_what_it_is_given_and_answers_the_next(renderer: Renderer) -> None:
    bomb = b"a: &a [" + b"x," * 9 + b"x]\n"
    bomb += b"".join(b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 10)) for n in b"abcdefg")
    assert "aliases" in (await rendered(renderer, a=bomb)).problems[0].message
    assert (
        "more than 1 MiB" in (await rendered(renderer, a=MAP + b"x: '" + b"y" * (2 << 20) + b"'\n")).problems[0].message
    )
    assert "64 bits" in (await rendered(renderer, a=MAP + b"x: 99999999999999999999\n")).problems[0].message
    assert len((await rendered(renderer, a=MAP)).rendered) == 1


async def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    program, entries = probe(tmp_path)
    program.write_text("#!/bin/sh\nsleep 600 & sleep 600\n")
    renderer = Renderer(Limits(seconds=0.5), kustomize=str(program))
    try:
        answer = await renderer.render("deploy", "auto", entries)
        assert "took longer than 0.5 s" in answer.problems[0].message
        assert len((await renderer.render(".", "plain", [Entry("a.yaml", FILE, MAP)])).rendered) == 1
    finally:
        await renderer.close()


async def test_a_program_in_the_jail_reaches_nothing_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOWLINE_SECRET", "credential")
    program, entries = probe(tmp_path)
    renderer = Renderer(LIMITS, kustomize=str(program))
    try:
        for _ in range(2):  # the second finds nothing that the first has left behind
            answer = await renderer.render("deploy", "auto", entries)
            assert answer.problems == ()
            found = answer.rendered[0].body["data"]
            assert int(found.pop("uid")) >= 64_000
            assert found.pop("network").strip() in ("", "lo")
            assert "SECRET" not in found.pop("parent")
            assert found == {"shadow": "", "secret": "", "variable": "", "left": ""}
    finally:
        await renderer.close()


def test_the_same_program_outside_of_the_jail_reaches_it_all(tmp_path: Path) -> None:
    """The control: without containment the probe does find what it looks for."""
    program, _ = probe(tmp_path)
    env = {"PATH": os.environ["PATH"], "TOWLINE_SECRET": "credential"}
    out = subprocess.run([program], env=env, capture_output=True, text=True, check=True).stdout
    (Path("/tmp") / "left-behind").unlink()
    assert 'secret: "credential"' in out
    assert 'variable: "credential"' in out
    if os.geteuid() == 0:
        assert 'shadow: ""' not in out


async def test_a_closed_pool_can_be_used_again(renderer: Renderer) -> None:
    assert len((await rendered(renderer, a=MAP)).rendered) == 1
    await renderer.close()
    assert len((await rendered(renderer, a=MAP)).rendered) == 1


async def test_a_link_out_of_the_tree_is_refused_before_it_is_written(renderer: Renderer) -> None:
    from towline.snapshot import BadSnapshot

    with pytest.raises(BadSnapshot, match="outside of the tree"):
        await renderer.render("deploy", "auto", [Entry("deploy/a.yaml", SYMLINK, b"/etc/passwd")])


async def test_programs_and_hidden_files_are_no_manifests(renderer: Renderer) -> None:
    entries = [
        Entry("deploy/.hidden.yaml", FILE, b"a: ["),
        Entry("deploy/run.sh", EXECUTABLE, b"#!/bin/sh\n"),
        Entry("deploy/a.yaml", FILE, MAP),
        Entry("other/a.yaml", FILE, b"a: ["),
    ]
    assert len((await renderer.render("deploy", "auto", entries)).rendered) == 1


async def test_a_kustomization_without_a_kustomize_says_so(renderer: Renderer) -> None:
    answer = await rendered(renderer, kustomization=b"resources: []\n")
    assert "no Kustomize is configured" in answer.problems[0].message


async def test_a_base_beside_the_folder_is_asked_for(renderer: Renderer) -> None:
    answer = await rendered(renderer, kustomization=b"resources: [../base, ../other]\n")
    assert answer.needs == ("base", "other")


def test_what_a_worker_says_is_not_believed_in_its_shape() -> None:
    for body in (1, {}, {"apiVersion": "v1", "kind": 3, "metadata": {"name": "a"}}):
        answer = pool._answer({"documents": [{"body": body, "file": "a.yaml", "line": 1}]})
        assert "cannot be read" in answer.problems[0].message
