"""`python -m towline.docs [--check] [DOCS]`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import orjson

from towline.docs import asyncapi, decisions_page, events_page, flow_page, metrics_page
from towline.docs.examples import events_on_map
from towline.docs.json_schema import file_of, schema_of
from towline.docs.written import filled, run
from towline.project import schema as project

SCHEMAS = "schemas"


def documents(root: Path) -> Mapping[str, str]:
    """Path below `root` → content."""
    schemas = {
        f"{SCHEMAS}/{file_of(event)}": orjson.dumps(schema_of(event), option=orjson.OPT_INDENT_2).decode() + "\n"
        for event in events_on_map()
    }
    return {
        "events.md": events_page.page(),
        "asyncapi.yaml": asyncapi.document(),
        f"{decisions_page.FOLDER}/README.md": decisions_page.page(root),
        "operate/lag.md": filled(root / "operate/lag.md", metrics_page.sections()),
        "flow.md": filled(root / "flow.md", flow_page.sections()),
        **schemas,
        **project.documents(),
    }


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], "python -m towline.docs", documents, (SCHEMAS,)))
