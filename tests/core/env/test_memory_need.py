"""The memory estimate: it never falls when something grows, the largest batch is the largest, published figures are met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import catalogue
from core.config import LoraConfig, TrainConfig
from core.env.memory_need import (
    MOST_ROWS,
    TOLERANCE,
    Job,
    adapter_parameters,
    fitting_type,
    inference_bytes,
    largest_batch,
    quantised,
    saved_bytes,
    training_need,
    weights_bytes,
)
from core.shape import ModelShape

GIB = 1 << 30
SMOLLM = catalogue.model("smollm2-135m-instruct").shape
LLAMA_8B = catalogue.model("llama-3.1-8b-instruct").shape
# config.json of Llama-3.2-3B
LLAMA_3B = ModelShape(
    vocab_size=128256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    head_dim=128,
    tie_word_embeddings=True,
)
SIZES = st.integers(1, 64).map(lambda n: 32 * n)


@st.composite
def shapes(draw):
    return ModelShape(
        vocab_size=draw(st.integers(64, 200_000)),
        hidden_size=draw(SIZES),
        intermediate_size=draw(SIZES),
        num_hidden_layers=draw(st.integers(1, 40)),
        num_attention_heads=draw(st.integers(1, 32)),
        num_key_value_heads=draw(st.integers(1, 8)),
        head_dim=draw(st.sampled_from([32, 64, 128])),
        tie_word_embeddings=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
    )


@st.composite
def jobs(draw):
    config = TrainConfig(
        student="any",
        quantisation=draw(st.sampled_from(["nf4", "fp4", "none"])),
        double_quantisation=draw(st.booleans()),
        per_device_train_batch_size=draw(st.integers(1, 64)),
        max_length=draw(st.integers(16, 4096)),
        lora=LoraConfig(r=draw(st.integers(1, 256)), use_dora=draw(st.booleans())),
    )
    return Job(draw(shapes()), config, draw(st.sampled_from(["cpu", "cuda"])), draw(st.sampled_from([2, 4])))


def peak(job, **change):
    return training_need(Job(job.shape, job.config.model_copy(update=change), job.device, job.compute_bytes)).peak_bytes


@given(jobs(), st.integers(1, 500))
def test_more_rows_never_need_less(job, more):
    rows = job.config.per_device_train_batch_size
    assert training_need(job, rows + more).peak_bytes >= training_need(job, rows).peak_bytes


@given(jobs(), st.integers(1, 500))
def test_longer_rows_and_a_larger_adapter_never_need_less(job, more):
    assert peak(job, max_length=job.config.max_length + more) >= peak(job)
    wider = job.config.lora.model_copy(update={"r": job.config.lora.r + more})
    assert peak(job, lora=wider) >= peak(job)


@given(jobs())
def test_four_bits_and_double_quantisation_never_need_more(job):
    assert peak(job, quantisation="nf4") <= peak(job, quantisation="none")
    assert peak(job, double_quantisation=True) <= peak(job, double_quantisation=False)


@given(jobs(), st.integers(1 << 28, 1 << 38))
def test_the_largest_batch_fits_and_one_row_more_does_not(job, limit):
    most = largest_batch(job, limit)
    assert most == 0 or training_need(job, most).peak_bytes <= limit
    assert most == MOST_ROWS or training_need(job, most + 1).peak_bytes > limit


@given(shapes(), st.sampled_from(["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "BF16", "F32"]), st.integers(1, 10_000))
def test_a_quantised_file_lies_between_four_and_thirty_two_bits(shape, kind, context):
    made = quantised(shape, kind)
    assert 4 <= made.bits_per_weight <= 32
    assert sum(made.fallbacks.values()) <= made.matrices
    assert inference_bytes(shape, kind, context) > made.tensors_bytes


def test_four_bit_blocks_cost_what_the_qlora_paper_says():
    job = Job(LLAMA_8B, TrainConfig(student="any"), "cuda")
    rest = 2 * (LLAMA_8B.parameters() - LLAMA_8B.block_parameters())
    assert 8 * (weights_bytes(job) - rest) / LLAMA_8B.block_parameters() == pytest.approx(4.127, abs=0.001)


def test_autograd_keeps_what_was_counted_with_its_own_hooks():
    # transformers 5.23, PEFT 0.21, CPU, bf16: 5720 bytes for each token in each block of this shape
    shape = SMOLLM.model_copy(
        update={
            "hidden_size": 96,
            "intermediate_size": 160,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 24,
        }
    )
    assert saved_bytes(Job(shape, TrainConfig(student="any"), "cpu")) == 5720


def test_an_adapter_on_named_layers_has_their_parameters_only():
    lora = LoraConfig(r=8, target_modules=("q_proj", "down_proj"))
    assert adapter_parameters(Job(SMOLLM, TrainConfig(student="any", lora=lora), "cpu")) == 30 * 8 * (
        576 + 576 + 1536 + 576
    )


@pytest.mark.parametrize(
    ("shape", "published_gib"),
    [(LLAMA_8B, 7.4), (LLAMA_3B, 4.6)],
    ids=["Llama-3.1-8B on an RTX 4090", "Llama-3.2-3B on an A100"],
)
def test_published_peaks_on_gpus_are_met(shape, published_gib):
    # torchtune's README: QLoRA r 8 on q, v, o and the MLP, batch 2, 2048 packed tokens, logits in chunks, no held-out logits,
    # PyTorch's own memory without CUDA's context
    modules = ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=modules)
    config = TrainConfig(student="any", lora=lora, per_device_train_batch_size=2, max_length=2048)
    need = training_need(Job(shape, config, "cuda"))
    estimate = need.weights_bytes + need.adapter_bytes + need.activations_bytes + need.loss_bytes
    assert estimate / GIB == pytest.approx(published_gib, rel=TOLERANCE)


@pytest.mark.parametrize(("kind", "published"), [("Q8_0", 8.501), ("Q6_K", 6.563), ("Q5_K_M", 5.704), ("Q4_K_M", 4.894)])
def test_llama_cpps_own_table_of_bits_is_met(kind, published):
    assert quantised(LLAMA_8B, kind).bits_per_weight == pytest.approx(published, rel=0.001)


def test_rows_that_are_no_multiple_of_256_fall_back_as_llama_quantize_does():
    made = quantised(SMOLLM, "Q4_K_M")
    assert sum(made.fallbacks.values()) == 180
    assert made.bits_per_weight == pytest.approx(6.17, abs=0.02)
    assert [fitting_type("Q4_K", width) for width in (256, 288, 300)] == ["Q4_K", "Q5_0", "F16"]
    assert quantised(LLAMA_8B, "Q4_K_M").fallbacks == {}
