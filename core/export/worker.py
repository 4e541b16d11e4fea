"""Merges a LoRA adapter into its base, saves it, and measures the merged model; merge.py is its client."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jinja2 import TemplateError
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from core.contract import Stage
from core.data.record import TokenisedRow
from core.errors import DataError
from core.events import OnEvent, Progress
from core.export.chat_format import ChatFormat, chat_format
from core.export.merge import GreedyAnswer, MergeRequest, MergeResult, ReferenceText
from core.worker_process import main

_GREEDY_PROMPTS = 8
_GREEDY_TOKENS = 32
# what belongs to a tokenizer; copied byte for byte, because a tokenizer that is loaded and saved again may change
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)


def work(request: MergeRequest, _folder: Path, on_event: OnEvent) -> MergeResult:
    """Merge, save, measure what was saved."""
    base, target = Path(request.base), Path(request.target)
    on_event(Progress(stage=Stage.EXPORT, task="merge", done=0, total=2, unit="steps"))
    dtype = AutoConfig.from_pretrained(base).dtype or torch.float32
    merged = _merged(base, Path(request.adapter))
    on_event(Progress(stage=Stage.EXPORT, task="merge", done=1, total=2, unit="steps"))
    merged.to(dtype).save_pretrained(target)
    parameters = merged.num_parameters()
    del merged
    _copy_tokenizer(base, target)
    on_event(Progress(stage=Stage.EXPORT, task="merge", done=2, total=2, unit="steps"))
    tokenizer, model = AutoTokenizer.from_pretrained(target), _reloaded(target)
    return MergeResult(
        held_out_loss=_held_out_loss(model, request.rows, on_event),
        measured_in=str(model.dtype).removeprefix("torch."),
        dtype=str(dtype).removeprefix("torch."),
        parameters=parameters,
        has_chat_template=bool(tokenizer.chat_template),
        texts=_reference(tokenizer, request.texts),
        greedy=tuple(_greedy(model, row) for row in request.rows[:_GREEDY_PROMPTS]),
        chat=_chat(tokenizer),
    )


def _merged(base: Path, adapter: Path) -> PreTrainedModel:
    # fp32 on the CPU, on every machine: the merged bytes must not depend on the GPU
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, adapter).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"the adapter {adapter} does not fit the base {base}: {str(error).splitlines()[0]}",
            remedy="Use the adapter with the student it was trained on, or train again.",
        ) from error
    return merged


def _copy_tokenizer(base: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, target / name)


def _reloaded(target: Path) -> PreTrainedModel:
    """Load the saved weights: on a GPU in their own type, else in fp32; a cast model would keep rounded rotary buffers."""
    on_gpu = torch.cuda.is_available()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(target, dtype="auto" if on_gpu else torch.float32)
    return model.to("cuda" if on_gpu else "cpu").eval()


def _reference(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[ReferenceText, ...]:
    """Return the ids of every text, as it is and as a turn in the chat template with its special tokens."""
    turns = [[{"role": "user", "content": text}] for text in texts] if tokenizer.chat_template else []
    shown = [*texts, *(str(tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)) for t in turns)]
    encoded = tokenizer(shown, add_special_tokens=False)["input_ids"]
    return tuple(ReferenceText(text=text, ids=tuple(ids)) for text, ids in zip(shown, encoded, strict=True))


def _chat(tokenizer: PreTrainedTokenizerBase) -> ChatFormat | None:
    def render(messages: Sequence[Mapping[str, str]], *, answering: bool) -> str:
        chat = [dict(message) for message in messages]
        try:
            return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=answering))
        except TemplateError as error:
            raise ValueError(str(error)) from error

    return chat_format(render) if tokenizer.chat_template else None


@torch.inference_mode()
def _greedy(model: PreTrainedModel, row: TokenisedRow) -> GreedyAnswer:
    prompt = row.input_ids[: row.completion_mask.index(1)]
    plainly = GenerationConfig(
        do_sample=False, max_new_tokens=_GREEDY_TOKENS, eos_token_id=model.generation_config.eos_token_id
    )
    told = model.generate(
        torch.tensor([prompt], device=model.device), plainly, output_logits=True, return_dict_in_generate=True
    )
    best = [logits[0].float().topk(2).values for logits in told.logits]
    return GreedyAnswer(
        prompt=prompt,
        ids=tuple(told.sequences[0, len(prompt) :].tolist()),
        margins=tuple(float(first - second) for first, second in best),
    )


@torch.inference_mode()
def _held_out_loss(model: PreTrainedModel, rows: Sequence[TokenisedRow], on_event: OnEvent) -> float:
    """Return the mean cross-entropy over all completion tokens of all rows, in nats."""
    total, tokens = 0.0, 0
    for done, row in enumerate(rows, 1):
        ids = torch.tensor([row.input_ids], device=model.device)
        mask = torch.tensor(row.completion_mask[1:], dtype=torch.bool, device=model.device)
        logits = model(input_ids=ids).logits[0, :-1][mask].double()
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:][mask], reduction="sum"))
        tokens += int(mask.sum())
        on_event(Progress(stage=Stage.EXPORT, task="held-out loss, merged", done=done, total=len(rows), unit="rows"))
    return total / tokens


if __name__ == "__main__":
    main(MergeRequest, work)
