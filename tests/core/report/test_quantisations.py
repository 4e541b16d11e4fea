"""Which files no other beats, and what is told of a model without divergences."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from core.nouns import Divergence, Quantisation
from core.report.quantisations import quantisations_page, quantisations_table, unbeaten
from core.workspace import Workspace
from tests.core import published_chain


def far(kl: float) -> Divergence:
    figures = dict.fromkeys(Divergence.model_fields, 1.0)
    return Divergence.model_validate({**figures, "n_ctx": 16, "chunks": 8, "kl_mean": kl})


def file(kind: str, size: int, loss: float, kl: float | None = None) -> Quantisation:
    return Quantisation(
        type=kind, path=f"{kind}.gguf", bytes=size, bits_per_weight=4, fallback_tensors=0, held_out_loss=loss, sample="x",
        divergence=None if kl is None else far(kl),
    )  # fmt: skip


FILES = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8).map(
    lambda drawn: [file(str(n), size, loss, kl) for n, (size, loss, kl) in enumerate(drawn)]
)


@given(FILES)
def test_a_file_is_unbeaten_exactly_when_none_is_at_least_as_good_in_all_and_better_in_one(
    files: list[Quantisation],
) -> None:
    def worth(one: Quantisation) -> tuple[float, ...]:
        return one.bytes, one.held_out_loss, one.divergence.kl_mean

    expected = {
        one.type
        for one in files
        if not any(
            worth(other) != worth(one) and all(a <= b for a, b in zip(worth(other), worth(one), strict=True))
            for other in files
        )
    }
    assert unbeaten(files) == expected
    assert expected


def test_where_a_divergence_is_unknown_size_and_loss_alone_are_compared() -> None:
    assert unbeaten([file("a", 1, 1.0), file("b", 2, 2.0, kl=0.1)]) == {"a"}
    assert unbeaten([file("a", 1, 1.0, kl=0.2), file("b", 2, 2.0, kl=0.1)]) == {"a", "b"}


def test_a_rejected_file_stands_with_its_reason_and_a_missing_divergence_is_told(workspace: Workspace) -> None:
    known, _ = published_chain.chain(workspace)
    (section,) = quantisations_page(known).sections
    assert [chart.title for chart in section.charts] == ["Held-out loss by size", "KL divergence by size"]
    without = tuple(one.model_copy(update={"divergence": None}) for one in known.quantisations)
    gguf = known.model_copy(update={"quantisations": without})
    table = quantisations_table(gguf)
    assert [row[0] for row in table.rows] == [*(q.type for q in gguf.quantisations), "Q4_K_M"]
    assert table.column("verdict")[-1] == "rejected: held_out_loss 3.2, limit <= 1.89"
    assert any("no divergence was measured" in note for note in table.notes)
    (section,) = quantisations_page(gguf).sections
    assert [chart.title for chart in section.charts] == ["Held-out loss by size"]
    assert Path(gguf.quantisations[0].path).suffix == ".gguf"


def test_the_estimated_and_the_measured_memory_stand_beside_each_other_with_what_they_mean(workspace: Workspace) -> None:
    gguf, _ = published_chain.chain(workspace)
    table = quantisations_table(gguf)
    assert table.column("memory_estimated_mib") == (64.0, 64.0, 64.0)
    assert table.column("memory_measured_mib") == (60.0, None, None)
    (told,) = [note for note in table.notes if note.startswith("RAM")]
    assert "a KV cache of 2,048 tokens" in told
    assert "measured as the peak on the exporting host (x86_64); it is measured where export.max_memory_mib" in told
    older = tuple(one.model_copy(update={"memory": None}) for one in gguf.quantisations)
    table = quantisations_table(gguf.model_copy(update={"quantisations": older, "rejected": ()}))
    assert table.column("memory_estimated_mib") == (None, None)
    assert not [note for note in table.notes if note.startswith("RAM")]
