"""Writes a GGUF as a Hugging Face folder: weights in bf16, its tokenizer checked against llama.cpp's, its chat template."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from core import toolchain
from core.errors import DataError, ToolMissing
from core.events import OnEvent, Progress
from core.train.student import MaterialiseRequest, MaterialiseResult
from core.worker_process import main

# transformers 5.23 gives every gpt2-type GGUF the plain GPT-2 splitting and ignores `tokenizer.ggml.pre`; these are the
# splittings of the same names in llama.cpp's src/llama-vocab.cpp
_SPLITTERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}

_PROBES = (
    "Hello 12345 world  1,000.50\n\n\tx = y_1**2 ; it's we'll I'M",
    "café naïve 日本語 🙂 ﬁ ½ x² ٣٤٥",
    "   three spaces before, two after  ",
    "a\r\nb\r\n\r\n\tdef f(self, *args, **kwargs) -> dict[str, int]:\n        return {}",
    "https://docs.python.org/3/library/os.path.html#os.path.join",
)


def work(request: MaterialiseRequest, folder: Path, on_event: OnEvent) -> MaterialiseResult:
    """Write the folder the request names."""
    del folder
    gguf, target = Path(request.gguf), Path(request.target)
    tokenizer = _tokenizer(gguf)
    tokenizer.save_pretrained(target)
    _compare(AutoTokenizer.from_pretrained(target), gguf)
    on_event(Progress(stage=None, task="materialise", done=1, total=3, unit="steps"))
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    on_event(Progress(stage=None, task="materialise", done=2, total=3, unit="steps"))
    fresh = _unquantised(loaded)
    fresh.save_pretrained(target)
    on_event(Progress(stage=None, task="materialise", done=3, total=3, unit="steps"))
    return MaterialiseResult(parameters=sum(parameter.numel() for parameter in fresh.parameters()))


def _unquantised(loaded: torch.nn.Module) -> LlamaForCausalLM:
    """Copy the weights into a model whose config does not say it is quantised: save_pretrained refuses the loaded one."""
    if not isinstance(loaded, LlamaForCausalLM):
        raise DataError(
            f"the GGUF holds a {type(loaded).__name__}, only a Llama can be taken from a GGUF",
            remedy="Name the model's Hugging Face repository as the student's source (kind: hub).",
        )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = LlamaForCausalLM(config)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    return fresh.to(torch.bfloat16)


def _tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    splitter = _SPLITTERS.get(_llama(gguf).metadata.get("tokenizer.ggml.pre", ""))
    if splitter is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = splitter()
    if not tokenizer.chat_template:
        raise DataError(
            "the GGUF holds no chat template", remedy="Name a student whose GGUF carries one (an instruct model)."
        )
    return tokenizer


def _compare(tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """Check the saved tokenizer against llama.cpp's own reading of the GGUF; DataError names the first difference."""
    reference = _llama(gguf)
    if len(tokenizer) != reference.n_vocab():
        raise _differs(f"vocabulary has {len(tokenizer)} entries, the GGUF's has {reference.n_vocab()}")
    if (tokenizer.bos_token_id, tokenizer.eos_token_id) != (reference.token_bos(), reference.token_eos()):
        raise _differs("bos or eos token is another one")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": _PROBES[0]}, {"role": "assistant", "content": _PROBES[1]}], tokenize=False
    )
    for text in (*_PROBES, chat):
        mine = tokenizer(text, add_special_tokens=False)["input_ids"]
        if mine != (theirs := reference.tokenize(text.encode(), add_bos=False, special=True)):
            at = next(
                (i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs))
            )
            raise _differs(f"{text[:40]!r} becomes other ids from token {at} on")


def _differs(what: str) -> DataError:
    return DataError(
        f"the tokenizer carried over from the GGUF differs from llama.cpp's: {what}",
        remedy="Name the model's Hugging Face repository as the student's source (kind: hub).",
    )


def _llama(gguf: Path):  # type: ignore[no-untyped-def]  # llama_cpp carries no types
    built = toolchain.find()
    if built is None:
        raise ToolMissing("llama.cpp is not built here", remedy="Run `edgekiln toolchain build`.")
    toolchain.use_libraries(built)
    import llama_cpp

    return llama_cpp.Llama(str(gguf), vocab_only=True, verbose=False)


if __name__ == "__main__":
    main(MaterialiseRequest, work)
