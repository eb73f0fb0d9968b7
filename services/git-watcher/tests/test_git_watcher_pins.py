"""Pinned fields: written where they stand, with every other byte of the file kept."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from towline.project.model import ImageSpec, KustomizePin, Project, YamlPin
from towline_git_watcher.worker.pins import CONSTANT, BadPin, Rule, Value, rules, write

NEW = Value("registry.example:5000/team/hello", "sha256:" + "ab" * 32)
PIN = KustomizePin(kustomize="k.yaml", image="hello")
FIELD = YamlPin(yaml="k.yaml", path="spec.containers.0.image")


def kustomize(text: str, value: Value = NEW) -> str:
    return write(text.encode(), PIN, value).decode()


def test_a_tag_gives_its_line_to_the_digest() -> None:
    before = (
        "# top\nimages:\n  - name: hello   # the app\n    newName: old/hello\n    newTag: 'v1' # by hand\nlast: 1\n"
    )
    assert kustomize(before) == (
        f"# top\nimages:\n  - name: hello   # the app\n    newName: {NEW.repository}\n"
        f"    digest: '{NEW.digest}' # by hand\nlast: 1\n"
    )


def test_fields_that_are_missing_come_after_the_name() -> None:
    assert kustomize("images:\n- name: hello # app\n- name: other\n") == (
        f"images:\n- name: hello # app\n  newName: {NEW.repository}\n  digest: {NEW.digest}\n- name: other\n"
    )


def test_a_tag_beside_a_digest_is_taken_away() -> None:
    assert kustomize("images:\n- newTag: a # x\n  name: hello\n  newName: b\n  digest: c\n") == (
        f"images:\n- name: hello\n  newName: {NEW.repository}\n  digest: {NEW.digest}\n"
    )
    assert kustomize("images:\n- name: hello\n  digest: c\n  newTag: a\n  newName: b\nx: 1") == (
        f"images:\n- name: hello\n  digest: {NEW.digest}\n  newName: {NEW.repository}\nx: 1"
    )


def test_flow_style_line_ends_and_a_byte_order_mark_stay() -> None:
    assert kustomize("images: [ {name: hello, newTag: v1}, {name: x} ]\n") == (
        f"images: [ {{name: hello, newName: {NEW.repository}, digest: {NEW.digest}}}, {{name: x}} ]\n"
    )
    assert kustomize("\ufeffimages:\r\n- name: hello\r\n  newName: ä\r\n") == (
        f"\ufeffimages:\r\n- name: hello\r\n  digest: {NEW.digest}\r\n  newName: {NEW.repository}\r\n"
    )


def test_an_empty_field_is_filled() -> None:
    assert kustomize("images:\n- name: hello\n  newName:\n  digest:   # later\n") == (
        f"images:\n- name: hello\n  newName: {NEW.repository}\n  digest: {NEW.digest}   # later\n"
    )


def test_one_field_of_a_file_gets_the_whole_reference() -> None:
    before = 'spec:\n  containers:\n    - name: a\n      image: "old:1" # pinned\n      args: [x,  y]\n'
    after = write(before.encode(), FIELD, NEW).decode()
    assert after == before.replace("old:1", f"{NEW.repository}@{NEW.digest}")


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        (None, "does not exist", None),
        ("images: []\n", "there is no entry with name: hello under images", 1),
        ("resources: []\n", "there is no entry with name: hello", None),
        ("images:\n- name: hello\n  newName: |\n    x\n", "text block", 3),
        ("images:\n- name: hello\n  digest: [a]\n", "expected one value here", 3),
        ("images: &a\n- name: hello\n", "anchors and aliases", 1),
        ("images: !!python/object:os.system\n- name: hello\n", "the tag", 1),
        ("a: 1\n---\nimages:\n- name: hello\n", "a second document", 2),
        ("images: [\n", "this is not YAML", None),
        ("[" * 30, "nested deeper", 1),
        ("a: " + "x" * 300_000, "at most 262144 are read", None),
    ],
)
def test_a_field_that_cannot_be_written_is_named(text: str | None, said: str, line: int | None) -> None:
    with pytest.raises(BadPin, match=said) as caught:
        write(None if text is None else text.encode(), PIN, NEW)
    assert caught.value.problem.file == "k.yaml"
    assert line is None or caught.value.problem.line == line


def test_a_field_that_is_not_there_is_named_with_its_path() -> None:
    with pytest.raises(BadPin, match=r"there is no field spec\.containers\.0"):
        write(b"spec:\n  containers: []\n", FIELD, NEW)


def test_towlines_own_file_is_never_pinned() -> None:
    with pytest.raises(BadPin, match="Towline's own file"):
        write(b"jobs: {}\n", YamlPin(yaml=".towline.yaml", path="jobs"), NEW)


def image(name: str, *pins: KustomizePin | YamlPin) -> ImageSpec:
    return ImageSpec(name=name, pins=pins)


def test_the_targets_rules_count_and_the_changes_own_where_it_is_silent() -> None:
    target = Project(images=(image("hello", PIN),))
    change = Project(images=(image("hello", FIELD), image("new", PIN, FIELD)))
    assert rules(target, change) == [Rule("hello", PIN), Rule("new", FIELD)]
    assert rules(None, change) == [Rule("hello", FIELD), Rule("new", PIN)]
    assert rules(target, Project()) == [Rule("hello", PIN)]


# -- for every file ---------------------------------------------------------------------------------------------------

_PLAIN = st.text(st.sampled_from("abcxyz019./_äé"), min_size=1, max_size=12).map(lambda text: f"v{text}v")
_COMMENT = st.sampled_from(["", " # why", "   # ünïcode: [x]"])
_GAP = st.sampled_from(["", "", "# a line\n", "\n", "    # deeper\n"])


@st.composite
def entries(draw: st.DrawFn, name: str) -> str:
    indent = draw(st.sampled_from(["", "  ", "    "]))
    fields = {"name": name}
    for key in draw(st.lists(st.sampled_from(["newName", "newTag", "digest"]), unique=True)):
        fields[key] = draw(_PLAIN)
    keys = draw(st.permutations(list(fields)))
    if draw(st.booleans()):
        inner = ", ".join(f"{key}: {fields[key]}" for key in keys)
        return f"{indent}- {{{inner}}}{draw(_COMMENT)}\n"
    lines = []
    for number, key in enumerate(keys):
        quote = draw(st.sampled_from(["", "'", '"'])) if key != "name" else ""
        lead = f"{indent}- " if number == 0 else f"{indent}  "
        lines.append(f"{lead}{key}: {quote}{fields[key]}{quote}{draw(_COMMENT)}\n")
    return "".join(lines)


@st.composite
def kustomizations(draw: st.DrawFn) -> str:
    indent_of_all = draw(st.just(""))
    del indent_of_all
    before = draw(st.sampled_from(["", "# head\n", "resources: [a.yaml,  b.yaml]\n", "x:\n    deep:   1\n"]))
    after = draw(st.sampled_from(["", "labels:\n- pairs: {a: b}\n", "# tail", "namespace: x # end\n"]))
    ours = draw(entries("hello"))
    indent = len(ours) - len(ours.lstrip(" "))
    others = [f"{' ' * indent}- name: other{n}\n" for n in range(draw(st.integers(0, 2)))]
    items = draw(st.permutations([ours, *others]))
    text = f"{before}{draw(_GAP)}images:{draw(_COMMENT)}\n{draw(_GAP)}{''.join(items)}{after}"
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


def comments(text: str) -> list[str]:
    return [line[line.index("#") :].rstrip("\r") for line in text.split("\n") if "#" in line]


@given(kustomizations())
def test_order_and_comments_are_kept_whatever_the_file_looks_like(text: str) -> None:
    after = kustomize(text)
    said = yaml.safe_load(after)
    before = yaml.safe_load(text)
    [ours] = [each for each in said["images"] if each["name"] == "hello"]
    assert ours == {"name": "hello", "newName": NEW.repository, "digest": NEW.digest}
    assert [each["name"] for each in said["images"]] == [each["name"] for each in before["images"]]
    assert {**said, "images": 0} == {**before, "images": 0}
    both = "newTag" in text and "digest" in text
    lost = [each for each in comments(text) if each not in comments(after)]
    assert not lost or (both and len(lost) == 1), "only a comment on the line of a tag that goes may go"
    untouched = [
        line for line in text.split("\n") if not any(key in line for key in ("newName", "newTag", "digest", "hello"))
    ]
    assert [line for line in after.split("\n") if line in untouched] == untouched


@given(kustomizations())
def test_writing_twice_is_writing_once_and_a_constant_hides_every_value(text: str) -> None:
    once = kustomize(text)
    assert kustomize(once) == once
    assert kustomize(once, CONSTANT) == kustomize(text, CONSTANT)
