"""What the built-in checks find in manifests, and where they say it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from towline_ci_runner.checks import kustomization, lint, schema_files
from towline_ci_runner.checks.configuration import Configuration
from towline_ci_runner.checks.found import Found
from towline_ci_runner.checks.schema import Schemas

SCHEMAS = Schemas(schema_files.folder("1.37"))
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: hello
spec:
  replicas: 2
  selector:
    matchLabels: {app: hello}
  template:
    metadata:
      labels: {app: hello}
    spec:
      containers:
        - name: hello
          image: hello
          ports:
            - containerPort: 8080
"""


def checked(files: dict[str, str], *manifests: str, scratch: Path = Path("/nonexistent")) -> Found:
    check = Configuration(SCHEMAS, None, scratch)
    return check.check({path: text.encode() for path, text in files.items()}, manifests or ("deploy",))


def said(found: Found) -> list[str]:
    return [f"{each['file']}:{each['line']}: {each['message']}" for each in found.problems]


def linted(files: dict[str, str], *manifests: str) -> Found:
    return lint.check({path: text.encode() for path, text in files.items()}, manifests or ("deploy",))


def test_good_manifests_have_no_problem() -> None:
    files = {
        "deploy/app.yaml": DEPLOYMENT,
        "deploy/more/a.json": '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}}',
        "deploy/.hidden/x.yaml": "broken: [",
        "deploy/README.md": "- [",
    }
    found = checked(files)
    assert (found.problems, found.notes, found.broken) == ([], [], None)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "replicas: 2",
            'replicas: "two"',
            "deploy/app.yaml:6: Deployment hello: spec.replicas: expected a whole number, found the text 'two'",
        ),
        (
            "replicas: 2",
            "replica: 2",
            "deploy/app.yaml:6: Deployment hello: spec.replica: there is no such field here; did you mean `replicas`?",
        ),
        (
            "containerPort: 8080",
            "containerPort: web",
            "deploy/app.yaml:17: Deployment hello: spec.template.spec.containers[0].ports[0].containerPort: "
            "expected a whole number, found the text 'web'",
        ),
        (
            "  selector:\n    matchLabels: {app: hello}\n",
            "",
            "deploy/app.yaml:5: Deployment hello: spec: the field `selector` is missing",
        ),
        ("  name: hello\nspec", "  labels: {}\nspec", "deploy/app.yaml:1: the Deployment has no metadata.name, or one"),
        ("apiVersion: apps/v1\n", "", "deploy/app.yaml:1: the object has no apiVersion; expected it at the top"),
        ("  replicas: 2", "  replicas: 2\n  replicas: 3", "deploy/app.yaml:7: the key 'replicas' stands twice"),
        ("replicas: 2", "replicas: [2", "deploy/app.yaml:7: this is not YAML: "),
        ("replicas: 2", "replicas: !secret 2", "deploy/app.yaml:6: the tag '!secret' is not taken here"),
    ],
)
def test_a_mistake_is_told_with_file_line_field_and_what_was_expected(old: str, new: str, expected: str) -> None:
    assert old in DEPLOYMENT
    (line,) = said(checked({"deploy/app.yaml": DEPLOYMENT.replace(old, new)}))
    assert line.startswith(expected)


def test_all_mistakes_of_all_files_are_told_at_once() -> None:
    bad = DEPLOYMENT.replace("replicas: 2", "replicas: x").replace("8080", "y")
    lines = said(checked({"deploy/a.yaml": bad, "deploy/b.yaml": "just text\n", "deploy/c.yaml": DEPLOYMENT}))
    assert [line.partition(": ")[0] for line in lines] == ["deploy/a.yaml:6", "deploy/a.yaml:17", "deploy/b.yaml:1"]


def test_a_list_is_taken_apart_and_its_items_keep_their_lines() -> None:
    items = "".join(
        f"- {{apiVersion: v1, kind: Service, metadata: {{name: s{n}}}, spec: {{port: 1}}}}\n" for n in (1, 2)
    )
    lines = said(checked({"deploy/all.yaml": f"apiVersion: v1\nkind: List\nitems:\n{items}"}))
    assert [line[:30] for line in lines] == ["deploy/all.yaml:4: Service s1:", "deploy/all.yaml:5: Service s2:"]


@pytest.mark.parametrize(
    "api_version", ["towline.dev/v1", "apps.example.com/v1", "../../v1", "apps/v1/../v1", "v1 ", "V1"]
)
def test_a_kind_without_a_schema_is_noted_and_never_taken_for_another(api_version: str) -> None:
    text = f"apiVersion: {api_version!r}\nkind: Deployment\nmetadata: {{name: x}}\nspec: nothing like it\n"
    found = checked({"deploy/x.yaml": text})
    assert found.problems == []
    assert found.notes == [f"1 of kind {api_version} Deployment not validated: no schema is known"]


def test_a_folder_that_holds_nothing_is_told() -> None:
    assert said(checked({"README.md": ""})) == [
        ".towline.yaml:None: `manifests` names the folder deploy, which holds no YAML file"
    ]


def test_the_top_of_the_repository_may_be_a_folder_of_manifests() -> None:
    assert said(checked({"app.yaml": DEPLOYMENT.replace("2", "x")}, "."))[0].startswith("app.yaml:6: ")


def test_a_kustomization_without_kustomize_is_an_error_of_the_runner() -> None:
    found = checked({"deploy/kustomization.yaml": "resources: []\n"})
    assert found.problems == []
    assert "needs Kustomize, and none is installed" in (found.broken or "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "resources:\n- https://example.com/x.yaml\n",
            "deploy/kustomization.yaml:2: `resources`: the remote source 'h",
        ),
        ("resources:\n- github.com/a/b?ref=v1\n", "deploy/kustomization.yaml:2: `resources`: the remote source 'git"),
        ("bases:\n- git@host:a/b.git\n", "deploy/kustomization.yaml:2: `bases`: the remote source 'git@host:a/b.git'"),
        ("\nhelmCharts:\n- name: x\n", "deploy/kustomization.yaml:2: `helmCharts`: Helm charts are not rendered"),
        ("resources:\n- missing.yaml\n", "deploy/kustomization.yaml:2: `resources`: the repository has no file or"),
        (
            "components:\n- ../../x\n",
            "deploy/kustomization.yaml:2: `components`: '../../x' points out of the repository",
        ),
        (
            "generators:\n- |-\n  metadata:\n    annotations:\n      config.kubernetes.io/function: x\n",
            "deploy/kustomization.yaml:1: `generators`: functions and plugins are not run",
        ),
        ("resources:\n- bad.yaml\n", "deploy/bad.yaml:2: this is not YAML: "),
        ("resources: [\n", "deploy/kustomization.yaml:2: this is not YAML: "),
        ("- a\n", "deploy/kustomization.yaml:1: a kustomization must be a mapping"),
    ],
)
def test_what_kustomize_would_fetch_or_run_is_refused_before_it_runs(text: str, expected: str) -> None:
    found = checked({"deploy/kustomization.yaml": text, "deploy/bad.yaml": "a: [\n"})
    assert said(found)[0].startswith(expected), said(found)


def test_a_kustomization_names_the_folders_and_sources_it_stands_on() -> None:
    files = {
        "base/kustomization.yml": b"resources: [app.yaml]\n",
        "base/app.yaml": DEPLOYMENT.encode(),
        "prod/kustomization.yaml": b"resources: [../base]\npatches:\n- path: patch.yaml\n",
        "prod/patch.yaml": b"kind: Deployment\n",
        "other/kustomization.yaml": b"resources: []\n",
    }
    seen = kustomization.survey("prod", files)
    assert (seen.folders, sorted(seen.sources), seen.problems) == (
        ["prod", "base"],
        ["base/app.yaml", "prod/patch.yaml"],
        [],
    )


def test_lint_fails_on_errors_and_counts_warnings() -> None:
    found = linted({"deploy/a.yaml": "a: 1\na: 2 \n", ".towline.yaml": "b: [1,\n", "src/x.yaml": "c: 1\nc: 2\n"})
    assert said(found) == [
        ".towline.yaml:2: syntax error: expected the node content, but found '<stream end>' (syntax)",
        'deploy/a.yaml:2: duplication of key "a" in mapping (key-duplicates)',
    ]
    assert found.notes == ["1 warning"]


def test_a_repository_may_bring_its_own_rules_for_lint() -> None:
    rules = "rules: {document-start: {level: error}, key-duplicates: disable}"
    own = f"extends: default\n{rules}\nignore: ['deploy/b.yaml']\n"
    found = linted({".yamllint": own, "deploy/a.yaml": "a: 1\na: 2\n", "deploy/b.yaml": "a: 1\n"})
    assert said(found) == ['deploy/a.yaml:1: missing document start "---" (document-start)']
    broken = linted({".yamllint.yaml": "rules: {no-such: enable}\n"})
    assert said(broken)[0].startswith(".yamllint.yaml:None: yamllint cannot use this configuration: ")
