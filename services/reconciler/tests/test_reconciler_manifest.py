"""What a kustomization refers to, and the identity and shape of objects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import BadInput
from towline.manifests import BadDocument
from towline_reconciler.manifest import ObjectId, Rendered, desired_of, duplicates
from towline_reconciler.render.documents import objects
from towline_reconciler.render.kustomization import survey

names = st.text("abc-.", min_size=1, max_size=8)


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


@given(names, names, names, st.sampled_from(["", "apps", "x.example"]))
def test_an_inventory_id_leads_back_to_its_object(namespace: str, name: str, kind: str, group: str) -> None:
    id = ObjectId(group, kind, namespace, name)
    assert ObjectId.from_inventory(id.inventory_id) == id


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
