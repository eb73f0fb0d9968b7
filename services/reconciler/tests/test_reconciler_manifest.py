"""Documents as kubectl reads them, what a kustomization refers to, and the identity of objects."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.errors import BadInput
from towline_reconciler.manifest import ObjectId, Rendered, desired_of, duplicates
from towline_reconciler.render.documents import BadDocument, objects, read
from towline_reconciler.render.kustomization import survey

names = st.text("abc-.", min_size=1, max_size=8)


def rendered(**body: object) -> Rendered:
    return Rendered({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, **body}, "a.yaml", 3)


def desired(of: Rendered, *, namespaced: bool = True) -> object:
    return desired_of(of, namespaced=namespaced, application=("shop", "web"), namespace="shop").object()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("off", False),
        ("~", None),
        ("0o17", 15),
        ("017", 15),
        ("0x1F", 31),
        ("1e3", 1000.0),
        ("1.10", 1.1),
        ("'1'", "1"),
        ("08:30", "08:30"),
        ("2026-01-01", "2026-01-01"),
        ("0x", "0x"),
        ("!!str 1", "1"),
    ],
)
def test_scalars_are_read_as_kubectl_reads_them(text: str, value: object) -> None:
    assert read(f"a: {text}\n".encode())[0].value == {"a": value}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "stands twice"),
        ("a: [\n", "not YAML"),
        ("a: !!python/object:os.system x\n", "is not taken here"),
        ("a: !!set {x: }\n", "is not taken here"),
        ("a: 18446744073709551616\n", "64 bits"),
        ("? [a]\n: 1\n", "plain text"),
        ("a:\n" + "".join(" " * n + "- \n" for n in range(1, 80)), "deeper"),
        ("\xff", "UTF-8"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(BadDocument, match=said):
        read(text.encode("latin-1"))


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_otherwise(text: bytes) -> None:
    with suppress(BadDocument):
        list(objects(read(text)))


def test_a_list_is_taken_apart() -> None:
    text = b"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: A, metadata: {name: a}}\n"
    assert [each.value["kind"] for each in objects(read(text))] == ["A"]


@pytest.mark.parametrize("text", [b"- 1\n", b"kind: A\n", b"apiVersion: v1\nkind: A\nmetadata: {}\n"])
def test_a_document_that_is_no_object_says_what_it_lacks(text: bytes) -> None:
    with pytest.raises(BadDocument, match=r"object|apiVersion|metadata\.name"):
        list(objects(read(text)))


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
