"""The memory a file needs on the board: told by its header, measured where there is room, held against the profile's limit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from core import catalogue
from core.config import ExportConfig
from core.contract import Origin
from core.data.record import TokenisedRow
from core.env import cgroup
from core.env.memory_need import TOLERANCE, inference_bytes
from core.errors import GateRefused
from core.events import ignore
from core.export.gate import Gate
from core.export.gguf_memory import need
from core.export.gguf_memory.need import Meter, estimated
from core.export.inspect import GgufFacts, read_gguf
from core.export.merge import MergeResult
from core.nouns import MemoryNeed

pytestmark = pytest.mark.model

N_CTX = 2048
MIB = 1 << 20


@pytest.fixture(scope="module")
def facts(default_gguf: Path) -> GgufFacts:
    return read_gguf(default_gguf, "Q4_0")


def test_a_header_tells_what_the_shape_tells(facts: GgufFacts) -> None:
    shape = catalogue.model("smollm2-135m-instruct").shape
    assert facts.cache_width == 2 * shape.num_hidden_layers * shape.key_value_size
    assert (facts.embedding_length, facts.feed_forward) == (shape.hidden_size, shape.intermediate_size)
    assert estimated(facts, N_CTX) == pytest.approx(inference_bytes(shape, "Q4_0", N_CTX), rel=0.05)
    assert estimated(facts, 2 * N_CTX) - estimated(facts, N_CTX) == 2 * facts.cache_width * N_CTX


def test_nothing_is_loaded_without_a_limit_nor_beyond_it(facts: GgufFacts, toolchain, tmp_path: Path) -> None:
    meter = Meter(N_CTX, None, toolchain, ignore, timeout_s=60)
    missing = tmp_path / "never-read.gguf"
    told = meter.need(missing, facts, tmp_path)
    assert (told.estimated_bytes, told.measured_bytes, told.measured_on) == (estimated(facts, N_CTX), None, None)
    assert replace(meter, limit_bytes=told.estimated_bytes - 1).need(missing, facts, tmp_path) == told


@pytest.mark.parametrize("kept_from", ["another machine's processor", "what the container has left"])
def test_nothing_is_loaded_in_an_emulator_nor_where_the_container_has_no_room(
    facts: GgufFacts, toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_from: str
) -> None:
    needed = estimated(facts, N_CTX)
    if kept_from == "what the container has left":
        monkeypatch.setattr(cgroup, "memory_room", lambda: (needed - 1, 2 * needed))
    else:
        monkeypatch.setattr(need, "origin_of", lambda _host: Origin.EMULATED)
    told = Meter(N_CTX, 1 << 40, toolchain, ignore, timeout_s=60).need(tmp_path / "never-read.gguf", facts, tmp_path)
    assert told == MemoryNeed(n_ctx=N_CTX, estimated_bytes=needed)


def test_a_peak_without_its_machine_is_no_measurement() -> None:
    with pytest.raises(ValidationError, match="needs the machine it was measured on"):
        MemoryNeed(n_ctx=N_CTX, estimated_bytes=1, measured_bytes=1)


def test_a_file_that_does_not_load_is_refused(facts: GgufFacts, toolchain, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    with pytest.raises(GateRefused, match=r"cut\.gguf: llama\.cpp cannot load it"):
        Meter(64, 1 << 40, toolchain, ignore, timeout_s=60).need(tmp_path / "cut.gguf", facts, tmp_path / "work")


@pytest.mark.full
def test_the_measured_peak_is_near_the_estimate_and_says_where_it_was_measured(
    facts: GgufFacts, default_gguf: Path, toolchain, tmp_path: Path
) -> None:
    told = Meter(N_CTX, 1 << 40, toolchain, ignore, timeout_s=600).need(default_gguf, facts, tmp_path)
    assert told.measured_bytes == pytest.approx(told.estimated_bytes, rel=TOLERANCE)
    assert told.measured_on.startswith("the exporting host (")


@pytest.mark.full
@pytest.mark.parametrize(("most_mib", "fits"), [(100, False), (400, True)])
def test_a_file_over_the_boards_memory_is_rejected_with_its_figures(
    most_mib: int, fits: bool, default_gguf: Path, toolchain, tmp_path: Path
) -> None:
    row = TokenisedRow(row_id="a", input_ids=(1, 4093, 198, 2, 198), completion_mask=(0, 0, 0, 1, 1))
    reference = MergeResult(held_out_loss=9.0, dtype="bfloat16", parameters=1, has_chat_template=True, texts=())
    meter = Meter(N_CTX, most_mib * MIB, toolchain, ignore, timeout_s=600)
    config = ExportConfig(max_loss_increase=50, max_memory_mib=most_mib)
    judged = Gate(reference, (row,), config, toolchain, ignore, meter=meter).examine(default_gguf, "Q4_0", tmp_path)
    over = [reason for reason in judged.reasons if reason.startswith("memory_mib.Q4_0 ")]
    assert bool(over) is not fits
    assert (judged.rejected().quantisation.memory.measured_bytes is not None) is fits
    if not fits:
        assert "limit <= 100; likely cause: the model, or the context of export.memory_context tokens" in over[0]
