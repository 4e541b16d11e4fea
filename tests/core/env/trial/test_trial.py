"""The trial: a real tiny training and the real converter, on this machine and on students broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from core import catalogue, config
from core.catalogue import LocalModel
from core.config import TrainConfig
from core.contract import Severity
from core.env.capability import Context
from core.env.probe import Probe, Reading, run_probes
from core.env.roles import Role
from core.env.trial import capability
from core.env.trial.capability import conversion_findings, quantisation_findings, training_findings
from core.env.trial.reading import ConversionTrial, Problem, Step, TrainingTrial, TrialReading, TrialRequest

ROOT = Path(__file__).parents[4]
ASKER = Path(__file__).parent / "ask_conversions.py"
CARD = catalogue.model("smollm2-135m-instruct")
KEPT = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def context_of(*overrides: str) -> Context:
    return Context(
        profile=config.load("demo", overrides),
        beside=config.find_profile("demo").parent,
        roles=frozenset({Role.TRAINER, Role.EXPORTER}),
        workspace=Path(),
        cache=Path(),
    )


def edit(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def broken(folder: Path) -> None:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        change(content)
        (folder / name).write_text(json.dumps(content), encoding="utf-8")

    return broken


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8") and None


BREAK: dict[str, Callable[[Path], None]] = {
    "whole": lambda _: None,
    "unknown architecture": edit("config.json", lambda c: c.update(architectures=["OracleForCausalLM"])),
    "unknown pre-tokenizer": edit("tokenizer.json", lambda c: c.update(normalizer={"type": "Lowercase"})),
    "torn tokenizer": write("tokenizer.json", "{"),
    "another model's tokenizer": edit("config.json", lambda c: c.update(vocab_size=1000)),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "no template": lambda folder: (folder / "chat_template.jinja").unlink(),
    "template raises": write("chat_template.jinja", "{{ raise_exception('only tools may speak') }}"),
    "template is no template": write("chat_template.jinja", "{% for message in %}"),
    "template ends no turn": write("chat_template.jinja", "{% for m in messages %}{{ m['content'] }}{% endfor %}"),
    "template takes no system message": write(
        "chat_template.jinja",
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ),
}


@pytest.fixture(scope="module")
def conversions(smollm_folder, toolchain, tmp_path_factory) -> dict[str, ConversionTrial]:
    place, cards = tmp_path_factory.mktemp("students"), []
    for name, breaks in BREAK.items():
        folder = place / name
        folder.mkdir()
        for file in KEPT:
            shutil.copyfile(smollm_folder / file, folder / file)
        breaks(folder)
        cards.append(CARD.model_copy(update={"name": name, "source": LocalModel(path=str(folder))}))
    asked = json.dumps([card.model_dump(mode="json") for card in cards])
    done = subprocess.run(
        [sys.executable, str(ASKER), asked, str(toolchain.source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [ConversionTrial.model_validate_json(line) for line in done.stdout.splitlines()]
    return {trial.student.name: trial for trial in found}


@pytest.mark.model
def test_a_whole_student_is_known_recognised_and_renders(conversions):
    trial = conversions["whole"]
    assert trial.problems == ()
    assert (trial.architecture, trial.pre_tokenizer, trial.vocabulary) == ("LlamaForCausalLM", "smollm", 49152)
    assert trial.renders
    assert conversion_findings(trial) == []


@pytest.mark.model
@pytest.mark.parametrize(
    ("broken", "kind", "severity", "says"),
    [
        ("unknown architecture", "architecture", Severity.ERROR, "OracleForCausalLM"),
        ("unknown pre-tokenizer", "pre-tokenizer", Severity.ERROR, "pre-tokenizer was not recognized"),
        ("torn tokenizer", "tokenizer", Severity.ERROR, ""),
        ("another model's tokenizer", "tokenizer", Severity.ERROR, "Assertion"),
        ("no template", "chat-template", Severity.ERROR, "chat_template"),
        ("template raises", "chat-template", Severity.ERROR, "only tools may speak"),
        ("template is no template", "chat-template", Severity.ERROR, "Expected an expression"),
        ("template ends no turn", "chat-template", Severity.ERROR, "no special token"),
        ("template takes no system message", "system-message", Severity.WARNING, "no system"),
    ],
)
def test_a_broken_student_is_a_finding_with_the_converters_own_word(conversions, broken, kind, severity, says):
    trial = conversions[broken]
    assert kind in [problem.kind for problem in trial.problems]
    finding = next(f for f in conversion_findings(trial) if f.where == f"{broken}: {kind}")
    assert finding.severity is severity
    assert says in finding.evidence
    assert broken in finding.evidence  # the folder
    assert finding.remedy


@pytest.mark.model
@pytest.mark.parametrize(
    ("broken", "says"), [("no configuration", "config.json is missing"), ("no tokenizer", "has none of")]
)
def test_a_student_with_a_missing_file_blocks(conversions, broken, says):
    (finding,) = conversion_findings(conversions[broken])
    assert finding.severity is Severity.ERROR
    assert says in finding.evidence


@pytest.mark.full
@pytest.mark.model
def test_what_the_converter_says_is_what_a_conversion_would_do(conversions, toolchain, tmp_path):
    """The same student through the converter's own program fails with the same words."""
    folder = conversions["unknown pre-tokenizer"].student.folder
    script = toolchain.source / "convert_hf_to_gguf.py"
    argv = [sys.executable, str(script), str(folder), "--vocab-only", "--outfile", str(tmp_path / "none.gguf")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "BPE pre-tokenizer was not recognized" in done.stderr


@pytest.mark.model
def test_the_part_trains_and_converts_here_in_one_child(smollm_folder, toolchain, tmp_path):
    context = context_of()
    readings = run_probes(capability.probes(context), tmp_path)
    assert readings["trial"].error is None
    trial = TrialReading.model_validate(readings["trial"].value)
    used = [step for step in trial.training.steps if step.used]
    assert [step.device for step in used] == ["cpu"]
    assert [step.error for step in used] == [None]
    assert {step.dtype for step in trial.training.steps} == {"float32", "bfloat16", "float16"}
    (fallback,) = capability.findings(readings, context)
    assert fallback.severity is Severity.INFO
    assert "180 of 210 matrices fall back" in fallback.evidence
    told = [fact.value for fact in capability.facts(readings, context)]
    assert any("what a training takes here" in value for value in told)
    assert any("tokenizer gpt2 smollm, 49152 words, embeddings tied, chat template renders" in value for value in told)


@pytest.mark.parametrize(
    ("target", "says"), [("crashing_target:read", "SIGSEGV"), ("core.env.no_such_part:read", "ModuleNotFoundError")]
)
def test_a_child_that_dies_blocks_the_trainer_with_its_evidence(tmp_path, monkeypatch, target, says):
    (tmp_path / "crashing_target.py").write_text(
        "import ctypes\ndef read(argument): return ctypes.string_at(1)\n", encoding="utf-8"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    readings = run_probes([Probe(name="trial", target=target, timeout_s=30)], tmp_path)
    (finding,) = capability.findings(readings, context_of())
    assert (finding.code, finding.severity) == ("trains", Severity.ERROR)
    assert says in finding.evidence
    assert capability.facts(readings, context_of()) == []


def test_no_reading_is_no_finding():
    assert capability.findings({}, context_of()) == []
    silent = Reading(name="trial", value=None, error=None, seconds=1.0)
    assert "without a word" in capability.findings({"trial": silent}, context_of())[0].evidence


def step(device="cpu", dtype="bfloat16", *, used=True, error: str | None = "RuntimeError: no kernel"):
    return Step(device=device, name=device, dtype=dtype, used=used, seconds=0.1, loss=None if error else 4.1, error=error)


def test_only_the_step_a_training_would_take_blocks():
    trial = TrainingTrial(
        steps=(step(), step("cuda:1", used=False), step("cpu", "float16", used=False), step("cuda:0", error=None))
    )
    found = training_findings(trial, "auto")
    assert [finding.severity for finding in found] == [Severity.ERROR, Severity.WARNING, Severity.INFO]
    assert "RuntimeError: no kernel" in found[0].evidence
    assert trial.compute_dtype == "bfloat16"


def test_a_device_that_is_not_there_and_a_library_that_cannot_be_imported_differ():
    gone = TrainingTrial(steps=(step(error=None),), error="train.device is cuda and torch sees no CUDA GPU")
    (finding,) = training_findings(gone, "cuda")
    assert finding.where == "train.device=cuda"
    broken = TrainingTrial(steps=(), error="ImportError: libcudart.so.13: cannot open shared object file")
    (finding,) = training_findings(broken, "auto")
    assert "libcudart" in finding.evidence
    assert finding.remedy_argv == ("edgekiln", "env", "fix")


def test_what_cannot_be_read_offline_is_told_and_not_guessed(tmp_path):
    from core.env.student import read_student

    student = read_student(catalogue.model("qwen3-0.6b"))
    trial = ConversionTrial(student=student.model_copy(update={"folder": None}), unchecked=("architecture: not here",))
    (finding,) = conversion_findings(trial)
    assert finding.severity is Severity.INFO
    assert finding.evidence == "not checked: architecture: not here"


def test_a_hidden_size_no_type_fits_is_a_warning():
    from core.env.student import read_student

    student = read_student(CARD)
    odd = student.model_copy(update={"shape": CARD.shape.model_copy(update={"hidden_size": 300})})
    (finding,) = quantisation_findings(ConversionTrial(student=odd), ("Q8_0",))
    assert finding.severity is Severity.WARNING
    assert "to F16" in finding.evidence
    assert quantisation_findings(ConversionTrial(student=odd.model_copy(update={"shape": None})), ("Q8_0",)) == []


def test_every_kind_of_problem_has_a_cause_and_a_remedy():
    from core.env.student import read_student

    student = read_student(CARD)
    for kind in capability._CAUSES:
        (finding,) = conversion_findings(ConversionTrial(student=student, problems=(Problem(kind=kind, evidence="no"),)))
        assert finding.cause
        assert finding.remedy


def test_the_request_survives_the_way_to_the_child():
    request = TrialRequest(train=TrainConfig(student="any"), card=CARD, converter=None)
    assert TrialRequest.model_validate_json(request.model_dump_json()) == request
