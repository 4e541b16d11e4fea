"""Tries one optimiser step on every device and asks llama.cpp's converter about the student, in a process of its own.

It imports torch once for both. The steps go through the trainer's own loading and its own adapter, so that a broken trl,
peft or bitsandbytes is met here. The CUDA steps are the CPU's on another device.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, TypeVar

from core.config import TrainConfig
from core.data.record import LabeledRow, Message
from core.env.student import StudentReading, read_student
from core.env.trial.reading import ConversionTrial, Problem, ProblemKind, Step, TrainingTrial, TrialReading, TrialRequest
from core.errors import EdgekilnError
from core.events import ignore

Value = TypeVar("Value")

# what libraries raise when they do not work; anything else, a crash too, ends this process and is the probe's error
_FAILURES = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OSError,
    AssertionError,
    ArithmeticError,
    EdgekilnError,
)
_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
_TINY_VOCABULARY, _TINY_TOKENS = 64, 16
_MAX_LENGTH = 512
_TOKENIZER_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_UNKNOWN_PRE_TOKENIZER = "pre-tokenizer was not recognized"  # conversion/base.py, get_vocab_base_pre
_TURNS = (Message(role="user", content="Why is the sky blue?"), Message(role="assistant", content="It scatters light."))
_SYSTEM = Message(role="system", content="Answer in one sentence.")


def read(argument: dict[str, Any]) -> TrialReading:
    """Try to train and to convert; argument: TrialRequest."""
    request = TrialRequest.model_validate(argument)
    return TrialReading(training=_training(request.train), conversion=_conversion(request))


def _training(config: TrainConfig) -> TrainingTrial:
    try:
        trainer = importlib.import_module("core.train.worker")
        import torch
    except _FAILURES as error:
        return TrainingTrial(steps=(), error=_one_line(error))
    try:
        chosen, lacks = trainer.chosen_device(config), None
    except EdgekilnError as error:
        chosen, lacks = None, error.problem
    tiny = config.model_copy(update={"lora": config.lora.model_copy(update={"target_modules": "all-linear"})})
    with TemporaryDirectory() as folder:
        try:
            _save_tiny(Path(folder))
        except _FAILURES as error:
            return TrainingTrial(steps=(), error=_one_line(error))
        steps = [
            _step(trainer, folder, tiny, device, dtype, used=_kind(device) == chosen and _first(device))
            for device in _devices(torch)
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
        ]
    return TrainingTrial(steps=tuple(steps), error=lacks)


def _devices(torch: ModuleType) -> Iterator[str]:
    yield "cpu"
    yield from (f"cuda:{index}" for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0))


def _kind(device: str) -> str:
    return device.partition(":")[0]


def _first(device: str) -> bool:
    return device in {"cpu", "cuda:0"}


def _save_tiny(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig(vocab_size=_TINY_VOCABULARY, **_TINY)).to(torch.bfloat16).save_pretrained(folder)


def _step(trainer: Any, folder: str, config: TrainConfig, device: str, dtype: Any, *, used: bool) -> Step:
    import torch

    began, loss, failure, name = time.perf_counter(), None, None, device
    try:
        used = used and dtype is trainer.compute_dtype(_kind(device))
        name = device if device == "cpu" else torch.cuda.get_device_name(device)
        loss = _loss_of_one_step(trainer, folder, config, device, dtype)
    except _FAILURES as error:
        failure = _one_line(error)
    return Step(
        device=device,
        name=name,
        dtype=str(dtype).removeprefix("torch."),
        used=used,
        seconds=time.perf_counter() - began,
        loss=loss,
        error=failure,
    )


def _loss_of_one_step(trainer: Any, folder: str, config: TrainConfig, device: str, dtype: Any) -> float:
    """Load, go forward and back, take the step; ArithmeticError when it gave no number or moved nothing."""
    import torch
    from peft import get_peft_model

    model = get_peft_model(trainer.load_student(folder, config, device, dtype), trainer.lora_config(config))
    trainer.fix_adapter_dtype(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=config.learning_rate)
    ids = torch.arange(_TINY_TOKENS, device=device).unsqueeze(0)
    before = sum(float(parameter.detach().abs().sum()) for parameter in trained)
    with torch.autocast(_kind(device), dtype=dtype, enabled=device != "cpu" and dtype is not torch.float32):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    optimiser.step()
    value = float(loss.detach())
    after = sum(float(parameter.detach().abs().sum()) for parameter in trained)
    if not math.isfinite(value) or not math.isfinite(after):
        raise ArithmeticError(f"the loss is {value}, the adapter's sum {after} after one step")
    if after == before:
        raise ArithmeticError("one step changed no adapter weight")
    return value


def _conversion(request: TrialRequest) -> ConversionTrial:
    student = read_student(request.card)
    if not student.complete or student.folder is None:
        return ConversionTrial(student=student, unchecked=(f"architecture, pre-tokenizer, chat template: {student.why}",))
    rendering = _template(student.folder)
    if request.converter is None:
        what = "architecture, pre-tokenizer: llama.cpp's converter is not here before the toolchain is built"
        return ConversionTrial(student=student, renders=not rendering, problems=rendering, unchecked=(what,))
    with TemporaryDirectory() as scratch:
        asked = _Converter(request.converter, student, Path(scratch))
        asked.ask()
    return ConversionTrial(
        student=student,
        architecture=asked.architecture,
        tokenizer_model=asked.value("tokenizer.ggml.model"),
        pre_tokenizer=asked.value("tokenizer.ggml.pre"),
        vocabulary=asked.length("tokenizer.ggml.tokens"),
        renders=not any(problem.kind == "chat-template" for problem in rendering),
        problems=(*asked.problems, *rendering),
    )


class _Converter:
    """llama.cpp's converter asked in this process: its own registry, its own table of pre-tokenizers, its own vocabulary.

    It sees config.json and the tokenizer's files only, so that weights need not be here.
    """

    def __init__(self, source: Path, student: StudentReading, scratch: Path) -> None:
        self.problems: list[Problem] = []
        self.architecture: str | None = None
        self._source = source
        self._scratch = scratch
        self._values: dict[str, Any] = {}
        for pattern in _TOKENIZER_FILES:
            for path in Path(str(student.folder)).glob(pattern):
                if not path.name.endswith(".index.json"):
                    (scratch / path.name).symlink_to(path.resolve())

    def ask(self) -> None:
        """Ask what the conversion would ask, in its order, and stop at the first no."""
        package = self._try("architecture", self._import)
        if package is None:
            return
        hparams = self._try("architecture", lambda: package.ModelBase.load_hparams(self._scratch, is_mistral_format=False))
        if hparams is None:
            return
        kind = self._try("architecture", lambda: self._class_of(package, hparams))
        model = kind and self._try("parameters", lambda: self._model(kind, hparams))
        if model is None:
            return
        if self._try("tokenizer", lambda: model.set_vocab() or True):
            self._try("parameters", lambda: model.set_gguf_parameters() or True)
        self._values = {name: each.value for held in model.gguf_writer.kv_data for name, each in held.items()}

    def value(self, key: str) -> str | None:
        """Return a metadata value that would be written."""
        found = self._values.get(key)
        return None if found is None else str(found)

    def length(self, key: str) -> int | None:
        """Return the length of a metadata list that would be written."""
        found = self._values.get(key)
        return None if found is None else len(found)

    def _import(self) -> ModuleType:
        sys.path[:0] = [str(self._source), str(self._source / "gguf-py")]
        return importlib.import_module("conversion")

    def _class_of(self, package: Any, hparams: dict[str, Any]) -> Any:
        self.architecture = package.get_model_architecture(hparams, package.ModelType.TEXT)
        return package.get_model_class(self.architecture)

    def _model(self, kind: Any, hparams: dict[str, Any]) -> Any:
        file_type = importlib.import_module("gguf").LlamaFileType.ALL_F32
        return kind(self._scratch, file_type, self._scratch / "none.gguf", dry_run=True, hparams=hparams)

    def _try(self, kind: ProblemKind, ask: Callable[[], Value]) -> Value | None:
        try:
            return ask()
        except _FAILURES as error:
            evidence = _one_line(error)
            known: ProblemKind = "pre-tokenizer" if _UNKNOWN_PRE_TOKENIZER in evidence else kind
            self.problems.append(Problem(kind=known, evidence=evidence))
            return None


def _template(folder: str) -> tuple[Problem, ...]:
    """Render a chat as the data worker does for training, without and with a system message."""
    from jinja2 import TemplateError

    from core.data.worker import tokenise

    def tried(kind: ProblemKind, turns: tuple[Message, ...]) -> Problem | None:
        row = LabeledRow(row_id="trial", split="train", messages=turns)
        try:
            list(tokenise(tokenizer, [row], _MAX_LENGTH, ignore))
        except EdgekilnError as error:
            return Problem(kind=kind, evidence=error.problem.removeprefix("row trial: "))
        except (*_FAILURES, TemplateError) as error:
            return Problem(kind=kind, evidence=_one_line(error))
        return None

    try:
        tokenizer = importlib.import_module("transformers").AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except _FAILURES as error:
        return (Problem(kind="tokenizer", evidence=_one_line(error)),)
    problem = tried("chat-template", _TURNS) or tried("system-message", (_SYSTEM, *_TURNS))
    return (problem,) if problem else ()


def _one_line(error: BaseException) -> str:
    if isinstance(error, EdgekilnError):
        return error.problem
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
