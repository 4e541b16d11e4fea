"""The worker's options on a tiny real Llama in 4 bit: each does what its name says, and what it must not change stays."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from core.config import TrainConfig
from core.train.early_stopping import waited_enough

_spec = importlib.util.spec_from_file_location("plan", Path(__file__).parent / "plan.py")
plan = importlib.util.module_from_spec(_spec)
sys.modules["plan"] = plan
_spec.loader.exec_module(plan)
Trained, carry_out = plan.Trained, plan.carry_out

SHORT = {"num_train_epochs": 1, "eval_steps": None, "checkpoint_steps": 100}
LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
ALL_ROWS = {**SHORT, "per_device_train_batch_size": 40, "gradient_accumulation_steps": 1, "lora": LORA}
RUNS = {
    "plain": {"layer_norm_steps": 4},
    "clipped": {"layer_norm_steps": 1, "max_grad_norm": 0.01},
    "short": {"headroom": {"min_host_mib": 1 << 30, "patience_s": 0}},
    "rank-stabilised": {"lora": {**LORA, "use_rslora": True}},
    "scaled": {"lora": {**LORA, "lora_alpha": 16}},
    "dora": {"lora": {**LORA, "use_dora": True}},
    "fp4": {"quantisation": "fp4"},
    "recomputed": {"gradient_checkpointing": True},
    "torch": {"optim": "adamw_torch"},
    "short-first": {"order": "by_length"},
    "warm": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5},
}
EARLY = {"learning_rate": 0.5, "lr_scheduler_type": "constant", "eval_steps": 2, "early_stopping_patience": 3}
EARLY["supervision"] = {"acts": False}  # with such a rate it diverges, which is what makes it stop early


@pytest.fixture(scope="module")
def trained(tiny_student, tmp_path_factory) -> Trained:
    runs: list[tuple[str, dict[str, Any]]] = [
        *((name, {"config": {**SHORT, "lora": LORA, **changes}}) for name, changes in RUNS.items()),
        ("one batch", {"config": ALL_ROWS}),
        ("packed", {"config": {**ALL_ROWS, "per_device_train_batch_size": 1, "packing": True, "max_length": 2048}}),
        ("paged", {"config": {"optim": "paged_adamw_8bit"}}),
        ("early", {"config": EARLY}),
        (
            "early-killed",
            {"config": EARLY, "fault": {"at": "held-out loss, trained", "number": 3, "signal": signal.SIGKILL}},
        ),
        ("early-killed", {"config": EARLY}),
        ("eight bit", {"action": "eight bit"}),
    ]
    return carry_out(tiny_student, tmp_path_factory.mktemp("options"), runs)


def lines(trained: Trained, name: str, file: str = "steps.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trained.folder / name / file).read_text(encoding="utf-8").splitlines()]


def steps(trained: Trained, name: str) -> list[dict[str, Any]]:
    return [line for line in lines(trained, name, "metrics.jsonl") if line["kind"] == "step"]


def losses(trained: Trained, name: str) -> list[float]:
    assert "result" in trained.ended[name][-1], trained.ended[name][-1]
    return [line["loss"] for line in lines(trained, name)]


def furthest(trained: Trained, one: str, other: str) -> float:
    return max(abs(a - b) for a, b in zip(losses(trained, one), losses(trained, other), strict=True))


ON_A_GPU = """
import types, torch
from core.train.worker import compute_dtype
torch.cuda.is_available, torch.cuda.current_device = (lambda: True), (lambda: 0)
torch.cuda._check_bf16_tensor_supported = lambda device: True  # a T4 makes such tensors too, it does not multiply them
for major in (7, 8, 9):
    torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(major=major)
    print(compute_dtype("cuda"))
"""


def test_a_gpu_that_only_emulates_bfloat16_computes_in_float16():
    done = subprocess.run([sys.executable, "-c", ON_A_GPU], capture_output=True, text=True, check=True, cwd=plan.REPOSITORY)
    assert done.stdout.split() == ["torch.float16", "torch.bfloat16", "torch.bfloat16"]


@pytest.mark.full
def test_rank_stabilised_lora_of_rank_four_is_lora_with_twice_the_alpha(trained):
    assert losses(trained, "rank-stabilised") == losses(trained, "scaled")
    assert furthest(trained, "rank-stabilised", "plain") > 1e-3


@pytest.mark.full
def test_dora_learns_a_magnitude_beside_the_direction(trained):
    assert furthest(trained, "dora", "plain") > 1e-4
    more, fewer = (trained.ended[name][0]["result"]["trainable_parameters"] for name in ("dora", "plain"))
    assert more == fewer + 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)  # the width of each projection of both layers


@pytest.mark.full
def test_fp4_is_another_base_than_nf4(trained):
    one, other = (trained.ended[name][0]["result"]["base_held_out_loss"] for name in ("fp4", "plain"))
    assert 0 < abs(one - other) < 0.5


@pytest.mark.full
def test_computing_activations_twice_changes_no_loss(trained):
    assert furthest(trained, "recomputed", "plain") <= 1e-4


@pytest.mark.full
def test_another_kernel_of_the_same_optimiser_begins_with_the_same_losses(trained):
    pairs = list(zip(losses(trained, "torch"), losses(trained, "plain"), strict=True))
    assert max(abs(one - other) for one, other in pairs[:5]) <= 1e-4
    assert any(one != other for one, other in pairs)


@pytest.mark.full
def test_short_rows_come_first_where_that_is_asked(trained):
    tokens = [line["tokens"] for line in steps(trained, "short-first")]
    assert tokens == sorted(tokens)
    shuffled = [line["tokens"] for line in steps(trained, "plain")]
    assert shuffled != sorted(shuffled)
    assert sum(shuffled) == sum(tokens)


@pytest.mark.full
def test_a_schedule_warms_up_and_stays(trained):
    rates = [line["learning_rate"] for line in lines(trained, "warm")]
    assert rates[:6] == pytest.approx([0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3])
    assert set(rates[6:]) == {5e-3}


@pytest.mark.full
def test_packed_chats_do_not_see_each_other(trained):
    (packed,) = steps(trained, "packed")
    (apart,) = steps(trained, "one batch")
    assert (packed["tokens"], packed["trained_tokens"]) == (apart["tokens"], apart["trained_tokens"])
    assert packed["loss"] == pytest.approx(apart["loss"], abs=1e-4)


@pytest.mark.full
def test_an_optimiser_that_needs_cuda_is_refused_on_the_cpu(trained):
    (ended,) = trained.ended["paged"]
    assert ended["error"] == "ToolMissing"
    assert "train.optim is paged_adamw_8bit, the training runs on the CPU" in ended["problem"]


@pytest.mark.full
def test_the_nested_state_of_an_8_bit_optimiser_is_kept_and_restored(trained):
    (ended,) = trained.ended["eight bit"]
    assert ended["differs"] == 0
    assert ended["without_state"] > 1e-4


@pytest.mark.full
def test_early_stopping_ends_with_the_best_adapter(trained):
    held_out = lines(trained, "early", "held_out_losses.jsonl")
    best = min(held_out, key=lambda record: record["held_out_loss"])
    (ended,) = trained.ended["early"]
    assert ended["result"]["steps"] == held_out[-1]["step"] == best["step"] + 3 * 2 < plan.STEPS
    assert ended["result"]["adapter_step"] == best["step"]
    assert ended["result"]["held_out_loss"] == best["held_out_loss"]


@pytest.mark.full
def test_early_stopping_is_remembered_over_kill_9(trained):
    assert trained.ended["early-killed"][0]["signal"] == signal.SIGKILL
    assert trained.outcome("early-killed") == trained.outcome("early")


@pytest.mark.full
def test_layers_have_the_norms_that_they_had_before_clipping_and_only_where_asked(trained):
    for name, asked in (("plain", 4), ("clipped", 1)):
        for line in steps(trained, name):
            assert ("layer_grad_norms" in line) == (line["step"] % asked == 0)
            if "layer_grad_norms" in line:
                assert line["layer_grad_norms"].keys() == {"0", "1"}
                assert math.hypot(*line["layer_grad_norms"].values()) == pytest.approx(line["grad_norm"], rel=1e-3)
    assert all(line["grad_norm"] > 0.01 for line in steps(trained, "clipped"))


@pytest.mark.full
def test_a_training_short_of_memory_says_so_and_learns_the_same(trained):
    (ended,) = trained.ended["short"]
    told = [event["action"] for event in ended["heard"] if event["kind"] == "memory-low"]
    assert told[:2] == ["caches-freed", "shrink-asked"]
    assert losses(trained, "short") == losses(trained, "plain")


@pytest.mark.full
def test_a_training_tells_what_it_runs_on_and_its_bases_loss_first(trained):
    (ended,) = trained.ended["plain"]
    base, start, *_ = lines(trained, "plain", "metrics.jsonl")
    assert (base["kind"], base["step"]) == ("held-out", 0)
    assert base["held_out_loss"] == ended["result"]["base_held_out_loss"]
    assert (start["kind"], start["after_step"], start["steps"]) == ("start", 0, ended["result"]["steps"])
    assert (start["device"], start["rows"], start["processes"]) == ("cpu", plan.ROWS, 1)
    assert start["trainable_parameters"] == ended["result"]["trainable_parameters"]


@pytest.mark.full
def test_every_step_leaves_a_line_of_what_it_took(trained):
    (ended,) = trained.ended["plain"]
    written = steps(trained, "plain")
    assert [line["step"] for line in written] == list(range(1, ended["result"]["steps"] + 1))
    for line, step in zip(written, lines(trained, "plain"), strict=True):
        assert {name: line[name] for name in step} == step
        assert line["tokens"] > line["trained_tokens"] > 0
        assert line["tokens_per_s"] == pytest.approx(line["tokens"] / line["step_s"])
        assert line["rss_bytes"] > 50_000_000


@pytest.mark.parametrize(
    ("losses_so_far", "patience", "enough"),
    [
        ([], 1, False),
        ([3.0, 2.0, 1.0], 1, False),
        ([3.0, 2.0, 2.0], 1, True),
        ([3.0, 2.0, 2.5, 2.4], 2, True),
        ([3.0, 2.0, 2.5, 1.9], 2, False),
        ([1.0, 9.0, 9.0, 9.0], None, False),
    ],
)
def test_waiting_ends_after_as_many_losses_that_were_not_the_best(losses_so_far, patience, enough):
    assert waited_enough(losses_so_far, patience) is enough


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"early_stopping_patience": 2}, "early_stopping_patience=2 and eval_steps=none: no held-out loss is measured"),
        ({"packing": True, "order": "by_length"}, "packing=true and order=by_length: packed rows have no order"),
        ({"packing": True, "distillation": {}}, "packing=true and distillation: the teacher's words are not packed"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, says):
    with pytest.raises(ValidationError, match=says):
        TrainConfig(student="tiny", **settings)
