"""A model that is worse than the current one is not promoted; one that is as good is; what cannot be compared is told."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from core.compare import entrants
from core.compare.questions import of_model
from core.compare.standing import refuse_worse
from core.config import ExportConfig, LabelConfig, TrainConfig
from core.contract import Artifact, Stage
from core.data.record import LabeledRow, Message
from core.errors import FileTampered, GateRefused, UsageError
from core.events import Event, Note, ignore
from core.files import write_json_lines
from core.nouns import Adapter, GgufModel, LabeledDataset, ModelRef, Quantisation
from core.promote import promote
from core.stage import Facts, Order, produce
from core.workspace import Workspace, open_workspace

pytestmark = pytest.mark.model

PUPIL = ModelRef(name="pupil", identity="sha256:abc", parameters=None, licence="MIT")
ANSWERS = (
    "The capital of France is Paris, which lies on the river Seine.",
    "Bees make honey from the nectar of flowers and keep it in combs.",
    "Water freezes at zero degrees Celsius and boils at one hundred.",
    "The Pacific Ocean is the largest and deepest of the world's oceans.",
    "Trees drop their leaves in autumn to save water during the winter.",
    "Bread is made of flour, water, salt and usually some yeast.",
    "The moon goes round the Earth once in about four weeks.",
    "A triangle has three sides, and its angles add up to 180 degrees.",
    "Shakespeare wrote Hamlet, Macbeth and many other plays.",
    "Plants turn light, water and carbon dioxide into sugar and oxygen.",
)
CONFIG = ExportConfig()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return open_workspace(tmp_path_factory.mktemp("standing") / "workspace")


@pytest.fixture(scope="module")
def adapter(shelf: Workspace) -> Adapter:
    def label(content: Path) -> Facts:
        turns = (
            (Message(role="user", content=f"Tell me a fact, number {place}."), Message(role="assistant", content=text))
            for place, text in enumerate(ANSWERS)
        )
        rows = (LabeledRow(row_id=str(place), split="held_out", messages=both) for place, both in enumerate(turns))
        write_json_lines(content / "held_out.jsonl", (row.model_dump(mode="json") for row in rows))
        counts = {"train_rows": 0, "held_out_rows": len(ANSWERS), "unanswered": 0, "asked": 0, "reused": 0}
        return Facts({"teacher": PUPIL, **counts, "prompt_tokens": 0, "completion_tokens": 0})

    labeled = produce(Order(LabeledDataset, Stage.LABEL, 1, LabelConfig(teacher="pupil")), shelf, ignore, label)
    own = {"student": PUPIL, "base_held_out_loss": 9.0, "held_out_loss": 8.0, "steps": 1, "trainable_parameters": 1}
    train = TrainConfig(student="pupil")
    order = Order(Adapter, Stage.TRAIN, 1, train, parents=(labeled.as_parent(),))
    return produce(order, shelf, ignore, lambda _: Facts({**own, "trained_tokens": 1, "resumed_from_steps": ()}))


def exported(shelf: Workspace, parent: Artifact, gguf: Path) -> GgufModel:
    """Publish a GGUF file as an export."""
    file = Quantisation(
        type="Q8_0",
        path="pupil-Q8_0.gguf",
        bytes=gguf.stat().st_size,
        bits_per_weight=8.0,
        fallback_tensors=0,
        held_out_loss=1.0,
        sample="x",
    )

    def work(content: Path) -> Facts:
        shutil.copyfile(gguf, content / file.path)
        return Facts({"student": PUPIL, "reference_held_out_loss": 1.0, "quantisations": (file,), "rejected": ()})

    order = Order(GgufModel, Stage.EXPORT, 1, CONFIG, parents=(parent.as_parent(),), inputs=(gguf.name,))
    return produce(order, shelf, ignore, work)


@pytest.fixture(scope="module")
def fine(shelf: Workspace, adapter: Adapter, default_gguf: Path) -> GgufModel:
    return exported(shelf, adapter, default_gguf)


@pytest.fixture(scope="module")
def coarse(shelf: Workspace, adapter: Adapter, default_gguf: Path, toolchain: Any, tmp_path_factory) -> GgufModel:
    made = tmp_path_factory.mktemp("coarse") / "coarse.gguf"
    options = ["--allow-requantize", "--pure", "--token-embedding-type", "q4_0"]
    argv = [str(toolchain.program("llama-quantize")), *options, str(default_gguf), str(made), "Q2_K"]
    subprocess.run(argv, check=True, capture_output=True)
    return exported(shelf, adapter, made)


@pytest.fixture
def current(shelf: Workspace) -> Iterator[Callable[[GgufModel], None]]:
    def put(model: GgufModel) -> None:
        shelf.journal.unlink(missing_ok=True)
        promote(shelf, "pupil", model, ignore)

    yield put
    for path in (shelf.pointer("pupil"), shelf.journal):
        path.unlink(missing_ok=True)


def test_the_first_model_of_a_profile_has_nothing_to_be_worse_than(shelf, coarse) -> None:
    refuse_worse(shelf, "pupil", coarse, CONFIG, lambda event: pytest.fail(str(event)))


def test_a_worse_model_is_refused_with_its_interval_and_a_better_one_is_not(shelf, current, fine, coarse) -> None:
    current(fine)
    with pytest.raises(GateRefused, match=rf"worse than the current {fine.artifact_id} of pupil: nats_per_byte") as refused:
        refuse_worse(shelf, "pupil", coarse, CONFIG, ignore)
    assert "over 10 prompts, worse" in refused.value.problem
    assert f"edgekiln compare {fine.artifact_id} {coarse.artifact_id}" in refused.value.remedy
    refuse_worse(shelf, "pupil", coarse, CONFIG.model_copy(update={"compare_prompts": 0}), ignore)

    current(coarse)
    heard: list[Event] = []
    refuse_worse(shelf, "pupil", fine, CONFIG, heard.append)
    (told,) = [event.text for event in heard if isinstance(event, Note)]
    assert "over 10 prompts, better" in told


def test_too_few_prompts_refuse_nothing_and_say_so(shelf, current, fine, coarse) -> None:
    current(fine)
    heard: list[Event] = []
    refuse_worse(shelf, "pupil", coarse, CONFIG.model_copy(update={"compare_prompts": 7}), heard.append)
    (told,) = [event.text for event in heard if isinstance(event, Note)]
    assert "over 7 prompts, too few prompts" in told


def test_a_current_model_that_is_not_whole_is_told_and_passed_over(shelf, current, fine, coarse) -> None:
    current(fine)
    file = shelf.folder(Stage.EXPORT, fine.artifact_id) / fine.quantisations[0].path
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    heard: list[Event] = []
    refuse_worse(shelf, "pupil", coarse, CONFIG, heard.append)
    with pytest.raises(FileTampered):
        entrants.find("pupil", shelf, ExitStack(), None, ignore)
    file.write_bytes(whole)
    (told,) = [event for event in heard if isinstance(event, Note)]
    assert told.level == "warning"
    assert "cannot be compared with" in told.text


def test_exports_and_profiles_are_found_by_name(shelf, current, fine, toolchain) -> None:
    current(fine)
    for name in (fine.artifact_id, "pupil", "pupil:Q8_0"):
        found = entrants.find(name, shelf, ExitStack(), toolchain, ignore)
        assert found.model == fine
        assert found.entrant.gguf.is_file()
    with pytest.raises(UsageError, match="has no Q4_0") as refused:
        entrants.find("pupil:Q4_0", shelf, ExitStack(), toolchain, ignore)
    assert "Q8_0" in refused.value.remedy
    assert [question.answer.content for question in of_model(shelf, fine, 999)] == list(ANSWERS)
    some = [question.answer.content for question in of_model(shelf, fine, 3)]
    assert some == [answer for answer in ANSWERS if answer in some]
    assert len(some) == 3


def test_a_hugging_face_folder_is_converted_first(
    shelf, tiny_smollm_student: Path, toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKILN_CACHE", str(tmp_path))
    with ExitStack() as kept:
        found = entrants.find(str(tiny_smollm_student), shelf, kept, toolchain, ignore)
        assert found.model is None
        assert found.entrant.gguf.read_bytes()[:4] == b"GGUF"
        assert found.entrant.gguf.is_relative_to(tmp_path / "converted")
