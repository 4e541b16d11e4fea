"""How much memory a training and an inference need, estimated from a student's shape. Pure; judged in fit.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import TrainConfig
from core.contract import Contract
from core.shape import Matrix, ModelShape

TOLERANCE = 0.15  # how far an estimate may lie from the measured peak (tests/benchmarks/test_memory_need.py)
MOST_ROWS = 4096  # no batch larger than this is looked for

_MIB = 1 << 20
# Python with torch, transformers, peft and trl, resident before any model: 600 MiB measured on x86-64
_RUNTIME_BYTES = 600 * _MIB
# the same without bitsandbytes and trl, which a plain merge does not import: 421 MiB measured on x86-64
_MERGE_RUNTIME_BYTES = 421 * _MIB
_GREEDY_PROMPTS = 8  # core/export/worker.py answers so many at once
# CUDA's context with the kernels of torch and cuBLAS's workspaces, on the GPU; from the literature, not measured here
_CUDA_CONTEXT_BYTES = 600 * _MIB
# glibc's heap keeps gaps between the saved tensors, which are below its 32 MiB limit for maps of their own: measured 1.42,
# 1.56 and 1.58 times what autograd saved; exactly 1.0 with MALLOC_MMAP_THRESHOLD_=65536. torch's CUDA allocator rounds less.
_HEAP = {"cpu": 1.5, "cuda": 1.05}
# TRL's fused output head (trl/kernels/chunked_logprob.py): tiles of so many tokens by so many words. Without Triton seven
# copies in fp32 and a mask live beside a tile (_backward_tile; measured 30.9 bytes with the tile's own 2), with it none
_TILE_TOKENS, _TILE_WORDS = 4096, 32_768
_TILE_COPIES_BYTES = {"cpu": 29, "cuda": 0}
HELD_OUT_TOKENS = 2048  # the held-out loss is measured of so many at once, of one row at least
_ADAM_BYTES = 12  # a gradient and two moments in fp32 for each adapter weight, beside its own 4

# QLoRA (arXiv 2305.14314, section 3): an absmax for 64 weights in fp32, with double quantisation in 8 bits and an fp32 for
# 256 of those
_FOUR_BIT = 0.5 + 4 / 64
_FOUR_BIT_DOUBLE = 0.5 + 1 / 64 + 4 / (64 * 256)

Device = Literal["cpu", "cuda"]


class Need(Contract):
    """Parts of the memory that is trained in, in bytes.

    `host_bytes` is RAM beside a GPU's own memory, without the checkpoint's mapped pages, which the kernel can take back; it
    is not measured.
    """

    device: Device
    runtime_bytes: int
    weights_bytes: int
    adapter_bytes: int
    loading_bytes: int
    activations_bytes: int
    loss_bytes: int
    held_out_bytes: int
    host_bytes: int

    @property
    def peak_bytes(self) -> int:
        """The largest of loading, one training step and measuring the held-out loss; they follow each other."""
        training = self.activations_bytes + self.loss_bytes
        return (
            self.runtime_bytes
            + self.weights_bytes
            + self.adapter_bytes
            + max(self.loading_bytes, training, self.held_out_bytes)
        )


@dataclass(frozen=True)
class Job:
    """A training: a student's shape, how it is trained, where, and in how many bytes a number is computed with."""

    shape: ModelShape
    config: TrainConfig
    device: Device
    compute_bytes: int = 2


def training_need(job: Job, batch_size: int | None = None) -> Need:
    """Return the peak memory of core/train/worker.py with every row `max_length` long.

    One step holds the 4-bit blocks, the embeddings in the compute type, the adapter with its gradient and Adam's moments, what
    autograd saves (`saved_bytes`) and a tile of logits; the held-out loss holds logits of HELD_OUT_TOKENS tokens
    instead, in the compute type and twice in fp32. DoRA's own intermediates are not counted. Measured: TOLERANCE.
    """
    shape, rows = job.shape, batch_size or job.config.per_device_train_batch_size
    tokens = rows * job.config.max_length
    checkpoint = 2 * shape.parameters()
    on_cpu = job.device == "cpu"
    return Need(
        device=job.device,
        # the checkpoint's file stays mapped while a tensor of it lives, and the heap keeps as much again of loading it: measured
        runtime_bytes=_RUNTIME_BYTES + checkpoint if on_cpu else _CUDA_CONTEXT_BYTES,
        weights_bytes=weights_bytes(job),
        adapter_bytes=(4 + _ADAM_BYTES) * adapter_parameters(job),
        loading_bytes=checkpoint if on_cpu else 2 * _widest(shape) * job.compute_bytes,
        activations_bytes=int(_HEAP[job.device] * _activations_bytes(job, tokens)),
        loss_bytes=_loss_bytes(job, tokens),
        held_out_bytes=min(tokens, max(job.config.max_length, HELD_OUT_TOKENS))
        * shape.vocab_size
        * (job.compute_bytes + 8),
        host_bytes=0 if on_cpu else _RUNTIME_BYTES + 2 * _widest(shape) * job.compute_bytes,
    )


def largest_batch(job: Job, limit_bytes: int) -> int:
    """Return the most rows whose training's peak is within a limit, 0 when not even one is, at most MOST_ROWS."""
    low, high = 0, MOST_ROWS
    while low < high:
        middle = (low + high + 1) // 2
        if training_need(job, middle).peak_bytes <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return low


def merge_bytes(shape: ModelShape, config: TrainConfig, *, onto_dequantised: bool) -> int:
    """Return the peak RAM of core/export/worker.py: the base in fp32, its checkpoint's mapped pages, and the largest of
    merging one matrix, scoring a held-out row of `max_length` tokens, and the keys and values of as long greedy answers.

    Merging onto dequantised weights holds the 4-bit student beside it while it takes them over. Measured: TOLERANCE.
    """
    full, checkpoint = 4 * shape.parameters(), 2 * shape.parameters()
    scoring = 2 * 4 * config.max_length * shape.vocab_size
    answering = 2 * 4 * _GREEDY_PROMPTS * config.max_length * shape.num_hidden_layers * shape.key_value_size
    alone = _MERGE_RUNTIME_BYTES + full + checkpoint + max(2 * 4 * _widest(shape), scoring, answering)
    if not onto_dequantised:
        return alone
    student = weights_bytes(Job(shape, config, "cpu", compute_bytes=4))
    return max(alone, _RUNTIME_BYTES + full + checkpoint + student)


def weights_bytes(job: Job) -> int:
    """Return the frozen weights as they lie in memory: blocks in 4 bits with their constants, the rest in the compute type."""
    blocks = job.shape.block_parameters()
    rest = job.shape.parameters() - blocks
    if job.config.quantisation == "none":
        return (blocks + rest) * job.compute_bytes
    each = _FOUR_BIT_DOUBLE if job.config.double_quantisation else _FOUR_BIT
    return int(blocks * each) + rest * job.compute_bytes


def targeted(job: Job) -> tuple[Matrix, ...]:
    """Return the linear layers of a block that get an adapter."""
    wanted = job.config.lora.target_modules
    return tuple(matrix for matrix in job.shape.matrices() if wanted == "all-linear" or matrix.name in wanted)


def adapter_parameters(job: Job) -> int:
    """Return the adapter's weights: r rows of inputs and r columns of outputs for each targeted layer, DoRA a magnitude too."""
    lora = job.config.lora
    per_block = sum(lora.r * (m.inputs + m.outputs) + (m.outputs if lora.use_dora else 0) for m in targeted(job))
    return job.shape.num_hidden_layers * per_block


def saved_bytes(job: Job) -> int:
    """Return what autograd keeps of one token in one block, without gradient checkpointing.

    Counted with torch.autograd.graph.saved_tensors_hooks in transformers 5.23 with PEFT 0.21 and equal to it: queries, the
    attention's result, keys, values; three MLP tensors; two fp32 rows of the norms with their scales; the attention's
    normaliser; for each adapter its input (cast to fp32 where there is no autocast, the CPU) and its r inner values.
    """
    shape, compute = job.shape, job.compute_bytes
    lora = 4 if job.device == "cpu" else compute
    attention = 2 * (shape.attention_size + shape.key_value_size) * compute + 4 * shape.num_attention_heads
    norms = 2 * (4 * shape.hidden_size + 4)
    if shape.qk_norm:
        norms += 4 * (shape.attention_size + shape.key_value_size)
        norms += 4 * (shape.num_attention_heads + shape.num_key_value_heads)
    inner = 3 * shape.intermediate_size * compute
    adapters = sum((matrix.inputs + job.config.lora.r) * lora for matrix in targeted(job))
    return attention + norms + inner + adapters


def _activations_bytes(job: Job, tokens: int) -> int:
    """Return what one step keeps; on CUDA, with gradient checkpointing, a row a block and one block's own at a time."""
    layers = job.shape.num_hidden_layers
    if job.device == "cpu":
        return tokens * layers * saved_bytes(job)
    rows = layers * job.shape.hidden_size * job.compute_bytes
    gradients = 2 * (job.shape.intermediate_size + job.shape.hidden_size) * job.compute_bytes
    return tokens * (rows + saved_bytes(job) + gradients) + 2 * _widest(job.shape) * job.compute_bytes


def _loss_bytes(job: Job, tokens: int) -> int:
    tile = min(tokens, _TILE_TOKENS) * min(job.shape.vocab_size, _TILE_WORDS)
    hidden = tokens * job.shape.hidden_size * (4 + job.compute_bytes)
    return tile * (_TILE_COPIES_BYTES[job.device] + job.compute_bytes) + hidden


def _widest(shape: ModelShape) -> int:
    return max(matrix.inputs * matrix.outputs for matrix in shape.matrices())


# llama.cpp, ggml-common.h: bits of a weight with its scales
BITS = {"F32": 32.0, "BF16": 16.0, "F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_K": 5.5, "Q5_1": 6.0, "Q5_0": 5.5}
BITS |= {"Q4_K": 4.5, "Q4_0": 4.5}
_BLOCK = {"Q6_K": 256, "Q5_K": 256, "Q4_K": 256, "Q8_0": 32, "Q5_1": 32, "Q5_0": 32, "Q4_0": 32}
_FALLBACK = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}  # llama-quant.cpp, tensor_type_fallback
# llama-quant.cpp, llama_tensor_get_type_impl: the type of the blocks, and of half of v_proj and down_proj
_MIX = {"Q4_K_M": ("Q4_K", "Q6_K"), "Q5_K_M": ("Q5_K", "Q6_K"), "Q4_0": ("Q4_0", "Q4_0"), "Q6_K": ("Q6_K", "Q6_K")}
_RICHER = {"v_proj", "down_proj"}
_UBATCH = 512  # llama.cpp's default of tokens computed at once
_LLAMA_BYTES = 40 * _MIB  # the program and its libraries


class Quantised(Contract):
    """A GGUF of a type such as Q4_K_M: the size of its tensors, and how many of the blocks' matrices fell back to what."""

    kind: str
    tensors_bytes: int
    bits_per_weight: float
    matrices: int
    fallbacks: dict[str, int]


def fitting_type(kind: str, width: int) -> str:
    """Return a tensor type, or the one llama-quantize takes where rows are no multiple of its block (llama-quant.cpp)."""
    if width % _BLOCK.get(kind, 1) == 0:
        return kind
    second = _FALLBACK.get(kind, "F16")
    return second if width % _BLOCK.get(second, 1) == 0 else "F16"


def quantised(shape: ModelShape, kind: str) -> Quantised:
    """Return the size of a student's GGUF of a type of export.quantisations, the fallbacks of odd widths counted."""
    plain, rich = _MIX.get(kind, (kind, kind))
    layers, bits, fallbacks = shape.num_hidden_layers, 0.0, dict[str, int]()
    for matrix in shape.matrices():
        richer = layers // 2 if matrix.name in _RICHER else 0
        for wanted, count in ((plain, layers - richer), (rich, richer)):
            taken = fitting_type(wanted, matrix.inputs)
            bits += count * matrix.inputs * matrix.outputs * BITS[taken]
            if taken != wanted and count:
                fallbacks[f"{wanted} to {taken}"] = fallbacks.get(f"{wanted} to {taken}", 0) + count
    # the output matrix, which a tied embedding is, is kept in a richer type
    output = fitting_type("Q6_K" if kind in _MIX else kind, shape.hidden_size)
    embedding = shape.vocab_size * shape.hidden_size
    bits += embedding * BITS[output]
    if not shape.tie_word_embeddings:
        bits += embedding * BITS[fitting_type(plain, shape.hidden_size)]
    small = shape.parameters() - shape.block_parameters() - shape.embedding_parameters()
    bits += small * BITS["F32"]
    return Quantised(
        kind=kind,
        tensors_bytes=int(bits / 8),
        bits_per_weight=bits / shape.parameters(),
        matrices=layers * len(shape.matrices()),
        fallbacks=fallbacks,
    )


def inference_bytes(shape: ModelShape, kind: str, context: int) -> int:
    """Return the RAM llama.cpp needs for a type of a student's GGUF. Measured: TOLERANCE."""
    return llama_bytes(
        tensors=quantised(shape, kind).tensors_bytes,
        cache_width=2 * shape.num_hidden_layers * shape.key_value_size,
        inner=shape.intermediate_size,
        hidden=shape.hidden_size,
        vocabulary=shape.vocab_size,
        context=context,
    )


def llama_bytes(*, tensors: int, cache_width: int, inner: int, hidden: int, vocabulary: int, context: int) -> int:
    """Return the RAM llama.cpp needs: weights, keys and values in 16 bits, one batch's rows in fp32, the program.

    `tensors` are the weights' bytes, `cache_width` the keys and values of one token in all layers. It reserves logits for a
    whole batch too (llama-context.cpp), but touches those it is asked for.
    """
    rows = min(_UBATCH, context) * (3 * inner + 4 * hidden) * 4
    return tensors + 2 * cache_width * context + rows + 4 * vocabulary + _LLAMA_BYTES
