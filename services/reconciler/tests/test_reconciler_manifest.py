"""What a kustomization refers to, and the identity and shape of objects."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import BadInput
from towline.manifests import BadDocument
from towline_reconciler.manifest import ObjectId, Rendered, check_kind, desired_of, duplicates, is_plural
from towline_reconciler.render.documents import objects
from towline_reconciler.render.kustomization import survey

names = st.text("abc-.", min_size=1, max_size=8)
anywhere = st.text("abc-._:", min_size=1, max_size=8)


def rendered(**body: object) -> Rendered:
    return Rendered({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, **body}, "a.yaml", 3)


def desired(of: Rendered, *, namespaced: bool = True) -> object:
    return desired_of(of, namespaced=namespaced, application=("shop", "web"), namespace="shop").object()


def test_labels_that_are_no_text_are_told_with_their_line() -> None:
    with pytest.raises(BadDocument, match=r"A a: metadata\.labels maps text to text; quote numbers") as refused:
        list(objects(b"apiVersion: v1\nkind: A\nmetadata:\n  name: a\n  labels: {a: 1}\n"))
    assert refused.value.line == 5


@pytest.mark.parametrize(
    "reference",
    [
        "https://github.com/x/y",
        "git@example.com:x/y",
        "ssh://git@example.com/x",
        "github.com/x/y?ref=main",
        "example.com/x/y.git//base",
        "git::https://example.com/x",
    ],
)
def test_a_remote_base_is_refused_with_file_and_line(reference: str) -> None:
    found = survey("deploy", {"deploy/kustomization.yaml": f"resources:\n  - {reference}\n".encode()})
    message, file, line = found.problems[0]
    assert "remote base" in message
    assert (file, line) == ("deploy/kustomization.yaml", 2)


def test_bases_are_followed_and_named_when_they_were_not_given() -> None:
    files = {
        "deploy/kustomization.yaml": b"resources: [../base, a.yaml]\n",
        "base/kustomization.yaml": b"components: [../extra]\n",
    }
    assert survey("deploy", files).needs == {"extra", "deploy/a.yaml"}


@given(names, anywhere, names, st.sampled_from(["", "apps", "x.example"]))
def test_an_inventory_id_leads_back_to_its_object(namespace: str, name: str, kind: str, group: str) -> None:
    """A role may be called `read_only`: its entry could not be read, and it was never pruned."""
    id = ObjectId(group, kind, namespace, name)
    assert ObjectId.from_inventory(id.inventory_id) == id
    with pytest.raises(ValueError, match=r"four parts|enough values"):
        ObjectId.from_inventory("shop_a_v1")


def checked(of: Rendered) -> object:
    check_kind(of)
    return desired(of)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"apiVersion": "x/../../api/v1/namespaces/d/services/s:80/proxy/quit?now=1/v1"}, "apiVersion 'x/../"),
        ({"apiVersion": "../v1"}, "apiVersion '../v1' is none"),
        ({"apiVersion": ".."}, "apiVersion '..' is none"),
        ({"kind": "Config/Map"}, "kind 'Config/Map' is none"),
        ({"metadata": {"name": "../../../pods/x"}}, "cannot be the name"),
        ({"metadata": {"name": ".."}}, "cannot be the name"),
        ({"metadata": {"name": "a/status"}}, "cannot be the name"),
        ({"metadata": {"name": "a?dryRun=All"}}, "cannot be the name"),
        ({"metadata": {"name": "a%2f.."}}, "cannot be the name"),
        ({"metadata": {"name": "a", "namespace": "../b"}}, "the namespace '../b' is none"),
        ({"metadata": {"name": "a", "namespace": 3}}, "the namespace '3' is none"),
    ],
)
def test_nothing_in_a_manifest_leads_a_request_elsewhere(body: dict[str, object], said: str) -> None:
    """The API server proxies to what listens inside the cluster: an apiVersion could name such a path."""
    with pytest.raises(BadInput, match=re.escape(said)):
        checked(rendered(**body))


@pytest.mark.parametrize("name", ["a", "system:node.x", "read_only", "A*"])
def test_names_that_some_kinds_have_are_taken(name: str) -> None:
    checked(rendered(metadata={"name": name}))
    for version in ("v1", "apps/v1", "rbac.authorization.k8s.io/v1", "x-y.example/v1alpha1"):
        check_kind(rendered(apiVersion=version))
    assert is_plural("configmaps")
    assert not is_plural("../proxy")


def test_an_object_gets_its_namespace_and_our_labels_and_loses_what_the_server_writes() -> None:
    found = desired(rendered(metadata={"name": "a", "uid": "u", "labels": {"x": "y"}}, status={"a": 1}, data=None))
    assert found == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "a",
            "namespace": "shop",
            "labels": {"x": "y", "towline.dev/application": "web", "towline.dev/application-namespace": "shop"},
        },
    }


def test_a_secrets_strings_are_sent_as_data() -> None:
    found = desired(rendered(kind="Secret", stringData={"k": "v"}))
    assert isinstance(found, dict)
    assert found["data"] == {"k": "dg=="}
    assert "stringData" not in found


def test_a_cluster_wide_object_may_name_no_namespace() -> None:
    with pytest.raises(BadInput, match=r"a\.yaml:3: .*cluster-wide"):
        desired(rendered(metadata={"name": "a", "namespace": "x"}), namespaced=False)


def test_an_object_that_stands_twice_is_named_with_both_places() -> None:
    one, two = (
        desired_of(rendered(), namespaced=True, application=("shop", "web"), namespace="shop") for _ in range(2)
    )
    assert "already defined in a.yaml:3" in str(duplicates([one, two])[0])
    assert duplicates([one]) == []
