"""Real conversations labelled by the real SmolLM2, in process and behind llama-server: tool rows come out as fitting JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from core.config import DataConfig, LabelConfig
from core.contract import Stage
from core.data.record import LabeledRow, read_labeled
from core.data.validate import validate
from core.files import read_json_lines
from core.label.label import label
from core.workspace import Workspace
from tests.core.label.test_serve import config, started

pytestmark = [pytest.mark.model, pytest.mark.full, pytest.mark.timeout(1800)]

CONVERSATIONS = Path(__file__).parents[2] / "data" / "quebecois_conversation.jsonl"


@pytest.fixture(params=["in process", "behind llama-server"])
def teacher(request: pytest.FixtureRequest, toolchain: Any) -> Iterator[LabelConfig]:
    settings = {"max_tokens": 160, "max_failed_share": 1.0}
    if request.param == "in process":
        yield LabelConfig(teacher="smollm2-135m-instruct", **settings)
        return
    with started() as (_, served):
        yield config(served, **settings)


def test_answers_to_tool_rows_are_json_that_fits_their_schemas(workspace: Workspace, teacher: LabelConfig) -> None:
    dataset = validate(DataConfig(sources=(str(CONVERSATIONS),)), workspace)
    artifact = label(dataset, teacher, workspace)
    folder = workspace.folder(Stage.LABEL, artifact.artifact_id)
    rows: list[LabeledRow] = [row for name in ("train", "held_out") for row in read_labeled(folder / f"{name}.jsonl")]
    of_tools = [row for row in rows if row.requires_json]
    for row in of_tools:
        assert row.tool_schema is not None
        jsonschema.Draft202012Validator(row.tool_schema).validate(json.loads(row.messages[-1].content))
    aside = list(read_json_lines(folder / "unanswered.jsonl"))
    assert len(rows) + len(aside) == 30 - dataset.rejected
    # what is set aside was cut off; nothing that does not fit was kept
    assert {reject["code"] for reject in aside} <= {"teacher-length", "teacher-json"}
    assert len(of_tools) >= 5
