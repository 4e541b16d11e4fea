"""What the model card says of the adapter alone: which base it goes with, and how to get that very base."""

from __future__ import annotations

import pytest

from core import catalogue
from core.export.card import ModelCard, model_card, teaching
from core.export.section import CardTexts
from core.lineage import parent
from core.nouns import Adapter, AdapterFile, Merge, ModelRef
from core.report.model_card import markdown
from core.workspace import Workspace
from tests.core import published_chain

COMMIT = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
ALONE = AdapterFile(
    path="tiny-adapter.gguf", bytes=1 << 20, r=8, lora_alpha=16, pairs=4, held_out_loss=1.3012, merged_held_out_loss=1.3011
)
FOUR_BIT = "the 4-bit weights it was trained on"


@pytest.fixture
def card(workspace: Workspace) -> ModelCard:
    gguf, _ = published_chain.chain(workspace)
    taught = teaching(workspace, parent(workspace, gguf, Adapter), gguf.reference_held_out_loss)
    ref = ModelRef(name="tiny", identity=f"hub:ada/tiny@{COMMIT}", parameters=1, licence="MIT")
    return model_card(
        CardTexts(), catalogue.model("qwen3-0.6b"), taught, ref=ref, quantisations=gguf.quantisations, rejected=(), tools={},
        merge=Merge(onto="base", held_out_losses={"base": 1.3011}, reason="export.merge is base"),
        adapter_file=ALONE, chat=None,
    )  # fmt: skip


def alone(card: ModelCard) -> str:
    section = markdown(card).partition("## The adapter alone\n")[2]
    return section.partition("\n## ")[0].replace("\\_", "_")


def test_the_base_is_downloaded_at_the_commit_the_adapter_was_trained_on(card: ModelCard) -> None:
    assert card.base_repo == "Qwen/Qwen3-0.6B"
    assert f"hf download Qwen/Qwen3-0.6B --revision {COMMIT} --local-dir base" in alone(card)


def test_a_base_from_elsewhere_is_named_by_what_fixes_its_bytes(card: ModelCard) -> None:
    local = card.student.model_copy(update={"identity": "sha256:abc"})
    told = alone(card.model_copy(update={"base_repo": None, "student": local}))
    assert "hf download" not in told
    assert "# base: the folder of tiny as Hugging Face has it, sha256:abc" in told


def test_files_that_were_merged_onto_4_bit_weights_are_told_apart_from_what_the_adapter_goes_with(card: ModelCard) -> None:
    assert FOUR_BIT not in alone(card)
    both = Merge(onto="dequantised", held_out_losses={"base": 1.3011, "dequantised": 1.2875}, reason="it is lower")
    taught = card.teaching.model_copy(update={"merged_held_out_loss": 1.2875})
    told = alone(card.model_copy(update={"merge": both, "teaching": taught}))
    assert "goes with tiny's own weights" in told
    assert f"The files above are another model: they were merged onto {FOUR_BIT}, with a held-out loss of 1.2875" in told
    assert "a held-out loss of 1.3012, the model merged onto those weights 1.3011" in told
