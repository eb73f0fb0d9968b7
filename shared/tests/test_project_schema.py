from __future__ import annotations

import jsonschema_rs
import pytest
import yaml

from towline.project.read import BadProject, read_project
from towline.project.schema import _EXAMPLE, json_schema


def test_the_example_of_the_page_is_valid_for_the_reader_and_the_schema() -> None:
    assert read_project(_EXAMPLE.encode()).jobs
    jsonschema_rs.validator_for(json_schema()).validate(yaml.safe_load(_EXAMPLE))


@pytest.mark.parametrize(
    "text", ["colour: 1", "jobs: {a: {}}", "jobs: {A: {run: x}}", "jobs: {a: {run: []}}", "images: {a: {pins: [{}]}}"]
)
def test_schema_and_reader_refuse_the_same_mistakes(text: str) -> None:
    with pytest.raises(BadProject):
        read_project(text.encode())
    assert not jsonschema_rs.validator_for(json_schema()).is_valid(yaml.safe_load(text))
