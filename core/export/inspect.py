"""Reads a GGUF file: real bits per weight, tensors that fell back, architecture, tokenizer. Needs the `gguf` package."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.contract import Contract
from core.errors import GateRefused
from core.files import digest_of

# the tensor types llama-quantize mixes on purpose under each name (src/llama-quant.cpp); any other one is a fallback
NOMINAL: dict[str, frozenset[str]] = {
    "F32": frozenset({"F32"}),
    "BF16": frozenset({"BF16"}),
    "Q8_0": frozenset({"Q8_0"}),
    "Q6_K": frozenset({"Q6_K"}),
    "Q5_K_M": frozenset({"Q5_K", "Q6_K"}),
    "Q4_K_M": frozenset({"Q4_K", "Q5_K", "Q6_K"}),
    "Q4_0": frozenset({"Q4_0", "Q4_1"}),
}
_SHOWN = {
    "architecture": "architecture is",
    "tensors": "number of tensors is",
    "parameters": "number of weights is",
    "tokenizer_model": "tokenizer is",
    "tokenizer_pre": "pre-tokenizer is",
    "vocabulary": "number of tokens is",
    "merges": "number of merges is",
    "special_tokens": "special tokens are",
}
_FOUND_FIRST = {2, 3, 4}  # gguf.TokenType: unknown, control, user-defined
_THE_SAME = {
    **_SHOWN,
    "layout": "tensors' names or shapes are",
    "chat_template": "chat template is",
    "tokens": "tokens or merges are",
}


class GgufFacts(Contract):
    """What a GGUF file says about itself; `bits_per_weight` counts tensor data only, `merges` is None without a list.

    `cache_width` are the numbers its KV cache keeps of one token in all layers.

    `layout` is the hash of all tensors' names and shapes, `tokens` of the tokens' texts, scores and types and of the merges,
    `chat_template` of that; `special_tokens` are ids by their key, `marked_tokens` the ids that are found in a text before it
    is split: special ones and those a user defined.
    """

    architecture: str
    tensors: int
    parameters: int
    bits_per_weight: float
    tensor_types: dict[str, int]
    fallback_tensors: int
    tokenizer_model: str | None
    tokenizer_pre: str | None
    vocabulary: int
    merges: int | None
    has_chat_template: bool
    layout: str
    embedding_rows: int | None
    special_tokens: dict[str, str]
    chat_template: str
    marked_tokens: frozenset[int] = frozenset()
    tokens: str = ""
    tensor_bytes: int = 0
    cache_width: int = 0
    embedding_length: int = 0
    feed_forward: int = 0


def read_gguf(path: Path, nominal: str, also: frozenset[str] = frozenset()) -> GgufFacts:
    """Read a GGUF file that should be of a type such as Q4_K_M, with parts of the types in `also`.

    GateRefused when it is not a whole GGUF file.
    """
    try:
        return _facts(_open(path), NOMINAL[nominal] | also)
    except (ValueError, IndexError, TypeError, ArithmeticError, OSError) as error:
        raise _broken(path, str(error)) from error
    except KeyError as error:
        raise _broken(path, f"key {error.args[0]} is missing or doubled") from error


class Pair(Contract):
    """The shape of a LoRA pair: B (outputs x r) times A (r x inputs)."""

    inputs: int
    r: int
    outputs: int


class AdapterFacts(Contract):
    """What an adapter's GGUF file says about itself: its pairs by the tensor of the base they change; and what the base is.

    `names` are the tensors of the base by the modules' names in PyTorch, a module's own name where the base has none.
    """

    kind: tuple[str | None, str | None]
    architecture: str
    lora_alpha: float
    pairs: dict[str, Pair]
    base_architecture: str
    base_shapes: dict[str, tuple[int, ...]]
    names: dict[str, str]


def read_adapter(path: Path, base: Path, modules: Iterable[str]) -> AdapterFacts:
    """Read an adapter's file beside the F32 file of its base. GateRefused when it is not a whole GGUF file."""
    try:
        return _adapter_facts(_open(path), _open(base), modules)
    except (ValueError, IndexError, TypeError, ArithmeticError, OSError) as error:
        raise _broken(path, str(error)) from error
    except KeyError as error:
        raise _broken(path, f"key {error.args[0]} is missing or doubled") from error


def _adapter_facts(reader: Any, base: Any, modules: Iterable[str]) -> AdapterFacts:
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    named = str(_value(base, "general.architecture"))
    architecture = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == named)
    tensor_of = get_tensor_name_map(architecture, int(base.get_field(f"{named}.block_count").contents()))
    return AdapterFacts(
        kind=(_value(reader, "general.type"), _value(reader, "adapter.type")),
        architecture=str(_value(reader, "general.architecture")),
        lora_alpha=float(reader.fields["adapter.lora.alpha"].contents()),
        pairs=_pairs({str(tensor.name): tuple(map(int, tensor.shape)) for tensor in reader.tensors}),
        base_architecture=named,
        base_shapes={str(tensor.name): tuple(map(int, tensor.shape)) for tensor in base.tensors},
        names={module: f"{tensor_of.get_name(module) or module}.weight" for module in modules},
    )


def _pairs(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Pair]:
    """Return the pairs by the name of the tensor they change; shapes are in GGUF's order, the row's length first."""
    found = {}
    for name in sorted({name.removesuffix(".lora_a").removesuffix(".lora_b") for name in shapes}):
        (inputs, r), (rank, outputs) = shapes[f"{name}.lora_a"], shapes[f"{name}.lora_b"]
        if r != rank:
            raise ValueError(f"the halves of {name} have ranks {r} and {rank}")
        found[name] = Pair(inputs=inputs, r=r, outputs=outputs)
    return found


def structure_problems(facts: GgufFacts, *, wants_chat_template: bool) -> list[str]:
    """Return what is missing in a file that can be read but not used as its source."""
    problems = []
    if facts.tokenizer_model is None or not facts.vocabulary:
        problems.append("it has no tokenizer (tokenizer.ggml.model, tokenizer.ggml.tokens)")
    if facts.tokenizer_model == "gpt2" and not facts.merges:
        problems.append("its tokenizer has no merges (tokenizer.ggml.merges): the tokenizer was saved wrongly")
    if wants_chat_template and not facts.has_chat_template:
        problems.append("it has no chat template (tokenizer.chat_template), the source has one")
    if facts.embedding_rows is not None and facts.embedding_rows != facts.vocabulary:
        problems.append(
            f"its embedding has {facts.embedding_rows} rows, == {facts.vocabulary} is needed, the tokens of its vocabulary: "
            "tokens were added without rows for them, or the tokenizer is another model's"
        )
    return problems


def differences(facts: GgufFacts, source: GgufFacts) -> list[str]:
    """Return where a quantised file is another model than the F32 file it was made of."""
    pairs = {name: (getattr(facts, name), getattr(source, name)) for name in _THE_SAME}
    return [
        f"its {_THE_SAME[name]} {mine}, the F32 file's {theirs}" if name in _SHOWN else f"its {_THE_SAME[name]} other"
        for name, (mine, theirs) in pairs.items()
        if mine != theirs
    ]


def _open(path: Path) -> Any:
    """Open a file with the package's reader, kept inside the file: by itself it loops over a broken count past the end."""
    import numpy as np
    from gguf import GGUFReader

    class Bounded(GGUFReader):  # type: ignore[misc]  # gguf has no types mypy may follow here
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            end = int(offset) + np.dtype(dtype).itemsize * int(count)
            if end > self.data.size:
                raise ValueError(f"it ends at byte {self.data.size}, its header names byte {end}")
            return super()._get(int(offset), dtype, count, override_order)

    with np.errstate(all="raise"):
        return Bounded(path)


def _facts(reader: Any, nominal: frozenset[str]) -> GgufFacts:
    tensors = [
        (str(t.name), str(t.tensor_type.name), int(t.n_elements), int(t.n_bytes), len(t.shape)) for t in reader.tensors
    ]
    parameters = sum(elements for _, _, elements, _, _ in tensors)
    if not parameters:
        raise ValueError("it holds no tensors")
    return GgufFacts(
        architecture=str(_value(reader, "general.architecture")),
        tensors=len(tensors),
        parameters=parameters,
        bits_per_weight=8 * sum(size for _, _, _, size, _ in tensors) / parameters,
        tensor_types=_count(kind for _, kind, _, _, _ in tensors),
        fallback_tensors=sum(_fell_back(name, kind, dims, nominal) for name, kind, _, _, dims in tensors),
        tokenizer_model=_value(reader, "tokenizer.ggml.model"),
        tokenizer_pre=_value(reader, "tokenizer.ggml.pre"),
        vocabulary=_length(reader, "tokenizer.ggml.tokens") or 0,
        merges=_length(reader, "tokenizer.ggml.merges"),
        has_chat_template=bool(_value(reader, "tokenizer.chat_template")),
        layout=digest_of(sorted((str(t.name), [int(size) for size in t.shape]) for t in reader.tensors)),
        embedding_rows=next((int(t.shape[-1]) for t in reader.tensors if t.name == "token_embd.weight"), None),
        special_tokens={
            key: str(field.contents())
            for key, field in sorted(reader.fields.items())
            if key.startswith("tokenizer.ggml.") and key.endswith("_token_id")
        },
        chat_template=digest_of(_value(reader, "tokenizer.chat_template")),
        marked_tokens=_marked(reader),
        tokens=_tokens(reader),
        tensor_bytes=sum(size for _, _, _, size, _ in tensors),
        cache_width=_cache_width(reader),
        embedding_length=max(_sizes(reader, "embedding_length")),
        feed_forward=max(_sizes(reader, "feed_forward_length")),
    )


def _fell_back(name: str, kind: str, dims: int, nominal: frozenset[str]) -> bool:
    """Count block matrices only: norms stay F32, and the type of the embedding and output matrix is chosen on its own."""
    return name.startswith("blk.") and dims > 1 and kind not in nominal


def _count(kinds: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))


def _marked(reader: Any) -> frozenset[int]:
    field = reader.get_field("tokenizer.ggml.token_type")
    kinds = [] if field is None else field.contents()
    return frozenset(number for number, kind in enumerate(kinds) if kind in _FOUND_FIRST)


def _tokens(reader: Any) -> str:
    known = hashlib.sha256()
    for name in ("tokens", "scores", "token_type", "merges"):
        field = reader.get_field(f"tokenizer.ggml.{name}")
        for index in () if field is None else field.data:
            data = field.parts[index].tobytes()
            known.update(len(data).to_bytes(8, "little") + data)
    return known.hexdigest()


def _cache_width(reader: Any) -> int:
    layers, heads = max(_sizes(reader, "block_count")), max(_sizes(reader, "attention.head_count"))
    kept = _sizes(reader, "attention.head_count_kv")
    width = max(_sizes(reader, "embedding_length")) // max(1, heads)
    both = sum(max(_sizes(reader, f"attention.{part}_length")) or width for part in ("key", "value"))
    total = sum(kept) if len(kept) > 1 else layers * (kept[0] or heads)
    return total * both


def _sizes(reader: Any, name: str) -> list[int]:
    """Return a size of the architecture, one for each layer where they differ; 0 where the file does not tell."""
    field = reader.get_field(f"{_value(reader, 'general.architecture')}.{name}")
    told = 0 if field is None else field.contents()
    return [int(one) for one in told] if isinstance(told, list) else [int(told)]


def _value(reader: Any, key: str) -> str | None:
    field = reader.get_field(key)
    return None if field is None else str(field.contents())


def _length(reader: Any, key: str) -> int | None:
    field = reader.get_field(key)
    return None if field is None else len(field.data)


def _broken(path: Path, why: str) -> GateRefused:
    return GateRefused(
        f"{path.name} is not a whole GGUF file: {why}",
        remedy="Export again; if it happens again, look at the disk and at the log of the converter.",
    )
