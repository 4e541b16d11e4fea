"""Merges a LoRA adapter into its base, saves it, and measures the merged model; merge.py is its client."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
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
from core.data.record import TokenisedRow, read_labeled
from core.data.worker import render
from core.errors import DataError
from core.events import OnEvent, Progress
from core.export.chat_format import ChatFormat, chat_format
from core.export.merge import GreedyAnswer, MergeRequest, MergeResult, ReferenceText, Weights
from core.export.source import SourceFacts, as_llama_reads, tokenizer_model
from core.files import digest_of, write_json_lines
from core.train.gauges.worker import free_caches
from core.train.held_out.worker import summed_loss
from core.worker_process import main

_GREEDY_PROMPTS = 8
_GREEDY_TOKENS = 32
_TASKS: dict[Weights, str] = {"base": "", "dequantised": " onto 4-bit weights"}
_BATCH = 256
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


def work(request: MergeRequest, folder: Path, on_event: OnEvent) -> MergeResult:
    """Merge onto every choice of weights, save and measure each, keep one, and let that one answer."""
    dtype = AutoConfig.from_pretrained(request.base).dtype or torch.float32
    losses: dict[Weights, float] = {}
    for onto in request.onto:
        model = _made(request, onto, dtype, on_event)
        losses[onto] = _held_out_loss(model, request.rows, _TASKS[onto], on_event)
    kept = request.keep or _best(losses)
    if kept != request.onto[-1]:
        model = _reloaded(_folder_of(request, kept))
    target = _kept(request, kept)
    tokenizer = AutoTokenizer.from_pretrained(target)
    corpus, unnormalised = _corpus(tokenizer, request.corpus, folder / "corpus.jsonl", on_event)
    return MergeResult(
        held_out_loss=losses[kept],
        onto=kept,
        held_out_losses=losses,
        measured_in=str(model.dtype).removeprefix("torch."),
        dtype=str(dtype).removeprefix("torch."),
        parameters=model.num_parameters(),
        has_chat_template=bool(tokenizer.chat_template),
        texts=_reference(tokenizer, request.texts),
        greedy=_greedy(model, request.rows[:_GREEDY_PROMPTS], tokenizer.pad_token_id or 0, on_event),
        chat=_chat(tokenizer),
        source=_source(tokenizer),
        corpus=corpus,
        unnormalised=unnormalised,
    )


def _best(losses: Mapping[Weights, float]) -> Weights:
    """Return the weights with the lowest loss, the first of equals."""
    return min(losses, key=lambda onto: losses[onto])


def _made(request: MergeRequest, onto: Weights, dtype: torch.dtype, on_event: OnEvent) -> PreTrainedModel:
    """Return the merged model as it was saved."""
    task, target = _TASKS[onto], _folder_of(request, onto)
    on_event(Progress(stage=Stage.EXPORT, task=f"merge{task}", done=0, total=2, unit="steps"))
    merged = _merged(request, onto)
    on_event(Progress(stage=Stage.EXPORT, task=f"merge{task}", done=1, total=2, unit="steps"))
    merged.to(dtype).save_pretrained(target)
    del merged
    free_caches()  # PEFT's layers hold each other; the model is loaded anew below
    _copy_tokenizer(Path(request.base), target)
    on_event(Progress(stage=Stage.EXPORT, task=f"merge{task}", done=2, total=2, unit="steps"))
    model = _reloaded(target)
    _require_rows(AutoTokenizer.from_pretrained(target), model, Path(request.base))
    return model


def _folder_of(request: MergeRequest, onto: Weights) -> Path:
    return Path(f"{request.target}-{onto}")


def _kept(request: MergeRequest, kept: Weights) -> Path:
    """Move the merged model that is kept into its place and remove the others."""
    for onto in request.onto:
        if onto != kept:
            shutil.rmtree(_folder_of(request, onto))
    return _folder_of(request, kept).rename(request.target)


def _merged(request: MergeRequest, onto: Weights) -> PreTrainedModel:
    # fp32 on the CPU, on every machine: the merged bytes must not depend on the GPU
    model = AutoModelForCausalLM.from_pretrained(request.base, dtype=torch.float32)
    if onto == "dequantised":
        _take_four_bit_weights(model, request)
    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, request.adapter).merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise DataError(
            f"the adapter {request.adapter} does not fit the base {request.base}: {str(error).splitlines()[0]}",
            remedy="Use the adapter with the student it was trained on, or train again.",
        ) from error
    return merged


def _take_four_bit_weights(model: PreTrainedModel, request: MergeRequest) -> None:
    """Put what the training multiplied by in place of the weights it kept in 4 bits; nothing is rounded after that.

    bitsandbytes chooses the 4-bit numbers in fp32 whatever the type of the weights, so they are the training's own where the
    base's type holds no more digits than the training's.
    """
    # with trl, which the trainer brings, these take 4 s that a plain merge spares
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    from core.train.worker import load_student

    trained_on = load_student(request.base, request.training, "cpu", torch.float32)
    for name, module in trained_on.named_modules():
        if isinstance(module, Linear4bit):
            plain = dequantize_4bit(module.weight.data, module.weight.quant_state)
            model.get_submodule(name).weight.data.copy_(plain)


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
    """Return the ids of every text, as it is and as a turn in the chat template, and of each special token within words."""
    texts = (*texts, *(f"before {token} after{token}" for token in _special(tokenizer).values()))
    turns = [[{"role": "user", "content": text}] for text in texts] if tokenizer.chat_template else []
    shown = [*texts, *(str(tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True)) for t in turns)]
    shown = _as_llama_reads(tokenizer, shown)
    encoded = tokenizer(shown, add_special_tokens=False)["input_ids"]
    return tuple(ReferenceText(text=text, ids=tuple(ids)) for text, ids in zip(shown, encoded, strict=True))


def _require_rows(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, base: Path) -> None:
    rows = int(model.get_input_embeddings().num_embeddings)
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        raise DataError(
            f"{base}: its embedding has {rows} rows, its tokenizer's largest id is {largest}, < {rows} is needed",
            remedy="Tokens were added without rows for them, or the tokenizer is another model's: put both of one revision.",
        )


def _special(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _corpus(
    tokenizer: PreTrainedTokenizerBase, files: Sequence[str], target: Path, on_event: OnEvent
) -> tuple[str | None, int]:
    """Write the ids of every row, as its contents and as the chat that is trained on, and count what is in no normal form.

    The file is None without rows.
    """
    rows = [row for file in files for row in read_labeled(Path(file))]
    contents = dict.fromkeys(message.content for row in rows for message in row.messages)
    whole = [render(tokenizer, row, answered=True) for row in rows] if tokenizer.chat_template else []
    said = [*contents, *whole]
    texts = _as_llama_reads(tokenizer, said)
    changed = sum(text != before for text, before in zip(texts, said, strict=True))

    def written() -> Iterator[dict[str, object]]:
        for start in range(0, len(texts), _BATCH):
            shown = texts[start : start + _BATCH]
            encoded = tokenizer(shown, add_special_tokens=False)["input_ids"]
            yield from ({"text": text, "ids": ids} for text, ids in zip(shown, encoded, strict=True))
            told = start + len(shown)
            on_event(Progress(stage=Stage.EXPORT, task="tokenise", done=told, total=len(texts), unit="texts"))

    return (str(target) if write_json_lines(target, written()) else None), changed


def _as_llama_reads(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    described = json.loads(backend.to_str()) if backend is not None else {}
    return [as_llama_reads(described, text) for text in texts]


def _source(tokenizer: PreTrainedTokenizerBase) -> SourceFacts:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    name, merges = tokenizer_model(json.loads(backend.to_str())) if backend is not None else (None, None)
    roles = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id}
    template = tokenizer.chat_template
    return SourceFacts(
        tokenizer_model=name,
        merges=merges,
        marked=_special(tokenizer),
        special_tokens={role: number for role, number in roles.items() if number is not None},
        chat_template=digest_of(template) if isinstance(template, str) else None,
    )


def _chat(tokenizer: PreTrainedTokenizerBase) -> ChatFormat | None:
    def render(messages: Sequence[Mapping[str, str]], *, answering: bool) -> str:
        chat = [dict(message) for message in messages]
        try:
            return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=answering))
        except TemplateError as error:
            raise ValueError(str(error)) from error

    return chat_format(render) if tokenizer.chat_template else None


@torch.inference_mode()
def _greedy(model: PreTrainedModel, rows: Sequence[TokenisedRow], pad: int, on_event: OnEvent) -> tuple[GreedyAnswer, ...]:
    """Return the greedy answers to the rows' prompts, generated together: every token reads all weights once."""
    prompts = [row.input_ids[: row.completion_mask.index(1)] for row in rows]
    if not prompts:
        return ()
    on_event(Progress(stage=Stage.EXPORT, task="greedy answers", done=0, total=len(prompts), unit="prompts"))
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    attention = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    ends = model.generation_config.eos_token_id
    plainly = GenerationConfig(do_sample=False, max_new_tokens=_GREEDY_TOKENS, eos_token_id=ends, pad_token_id=pad)
    told = model.generate(ids, plainly, attention_mask=attention, output_logits=True, return_dict_in_generate=True)
    best = torch.stack([logits.float().topk(2).values for logits in told.logits], dim=1)  # (prompts, tokens, 2)
    margins = (best[..., 0] - best[..., 1]).tolist()
    answers = [_until(ends, answer) for answer in told.sequences[:, longest:].tolist()]
    on_event(Progress(stage=Stage.EXPORT, task="greedy answers", done=len(prompts), total=len(prompts), unit="prompts"))
    return tuple(
        GreedyAnswer(prompt=prompt, ids=tuple(answer), margins=tuple(margin[: len(answer)]))
        for prompt, answer, margin in zip(prompts, answers, margins, strict=True)
    )


def _until(ends: int | Sequence[int] | None, ids: list[int]) -> list[int]:
    """Return an answer up to and with the token that ended it; padding follows."""
    last = {ends} if isinstance(ends, int) else set(ends or ())
    return ids[: next((place for place, token in enumerate(ids, 1) if token in last), len(ids))]


@torch.inference_mode()
def _held_out_loss(model: PreTrainedModel, rows: Sequence[TokenisedRow], which: str, on_event: OnEvent) -> float:
    """Return the mean cross-entropy over all completion tokens of all rows, in nats; DataError when it is no number."""
    total, tokens, task = 0.0, 0, f"held-out loss, merged{which}"
    for done, row in enumerate(rows, 1):
        loss, scored = summed_loss(model, [row], pad=0)
        total, tokens = total + float(loss), tokens + scored
        on_event(Progress(stage=Stage.EXPORT, task=task, done=done, total=len(rows), unit="rows"))
    if not math.isfinite(total):
        raise DataError(
            f"the {task} is {total / tokens}, it must be a number",
            remedy="The adapter's weights are broken: train again, with a lower train.learning_rate.",
        )
    return total / tokens


if __name__ == "__main__":
    main(MergeRequest, work)
