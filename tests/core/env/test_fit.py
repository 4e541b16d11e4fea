"""Whether a training fits: judged from a shape, a configuration and the memory there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import catalogue, config
from core.config import LoraConfig, TrainConfig
from core.contract import Severity
from core.env import fit
from core.env.capability import Context
from core.env.fit import Room, fit_findings, gpu_room, merge_findings, ram_room, target_findings
from core.env.gpu import Gpu
from core.env.host import read_host
from core.env.memory_need import Job, merge_bytes, training_need
from core.env.probe import run_probes
from core.env.roles import Role

GIB = 1 << 30
SMOLLM = catalogue.model("smollm2-135m-instruct").shape
QWEN = catalogue.model("qwen2.5-1.5b-instruct").shape
T4 = Gpu(index=0, name="Tesla T4", memory_total_mib=15_360, memory_free_mib=15_000, compute_capability="7.5")
BIG = TrainConfig(student="qwen2.5-1.5b-instruct", device="cuda", per_device_train_batch_size=32, max_length=2048)


def room(device, gib, free_gib=None):
    return Room(device, "somewhere", int(gib * GIB), None if free_gib is None else int(free_gib * GIB), 2)


def context_of(profile, *overrides):
    return Context(
        profile=config.load(profile, overrides),
        beside=config.find_profile(profile).parent,
        roles=frozenset({Role.TRAINER}),
        workspace=Path(),
        cache=Path(),
    )


def readings_of(context, tmp_path):
    from core.env.accelerators import NVML_PROBE
    from core.env.probe import Probe

    machine = Probe(name="machine.system", target="core.env.machine.system:read", argument={"variables": {}}, timeout_s=20)
    nvml = Probe(name=NVML_PROBE, target="core.env.gpu:read", timeout_s=20)
    return run_probes([*fit.probes(context), machine, nvml], tmp_path)


def test_a_training_that_fits_gives_no_finding():
    assert fit_findings(SMOLLM, TrainConfig(student="smollm2-135m-instruct"), room("cpu", 64, 60)) == []


def test_a_batch_too_large_for_a_gpu_blocks_and_the_remedy_names_the_largest_that_fits():
    place = gpu_room(T4)
    (finding,) = fit_findings(QWEN, BIG, place, ("qwen3-0.6b",))
    assert finding.severity is Severity.ERROR
    assert "per_device_train_batch_size 32" in finding.evidence
    assert "15.0 GiB there is" in finding.evidence
    batch = int(finding.remedy_argv[3].partition("=")[2])
    assert finding.remedy_argv[2:4] == ("--set", f"train.per_device_train_batch_size={batch}")
    assert f"largest batch that fits is {batch}" in finding.remedy
    assert "qwen3-0.6b" in finding.remedy
    changes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": -(-32 // batch)}
    assert finding.remedy_argv[5] == f"train.gradient_accumulation_steps={changes['gradient_accumulation_steps']}"
    assert fit_findings(QWEN, BIG.model_copy(update=changes), place) == []


def test_where_not_even_one_row_fits_the_remedy_is_a_shorter_row_or_a_smaller_student():
    (finding,) = fit_findings(QWEN, BIG, room("cuda", 2))
    assert finding.severity is Severity.ERROR
    assert "Not even one row of train.max_length=2048 fits" in finding.remedy
    assert finding.remedy_argv == ()
    (finding,) = fit_findings(QWEN, BIG, room("cpu", 2))
    assert finding.severity is Severity.ERROR


def test_ram_that_a_smaller_batch_would_fit_is_a_warning_as_rows_may_be_shorter():
    train = config.load("demo").train.model_copy(update={"per_device_train_batch_size": 8})
    (finding,) = fit_findings(SMOLLM, train, room("cpu", 8))
    assert finding.severity is Severity.WARNING
    assert "train.per_device_train_batch_size=" in " ".join(finding.remedy_argv)


def test_a_peak_within_the_estimates_own_error_does_not_block():
    train = TrainConfig(student="smollm2-135m-instruct")
    peak = training_need(Job(SMOLLM, train, "cuda")).peak_bytes
    (finding,) = fit_findings(SMOLLM, train, Room("cuda", "a GPU", int(peak / 1.1), None, 2))
    assert finding.severity is Severity.WARNING


def test_memory_that_others_hold_at_present_is_a_warning_of_its_own():
    (finding,) = fit_findings(SMOLLM, TrainConfig(student="smollm2-135m-instruct"), room("cuda", 80, 1))
    assert finding.severity is Severity.WARNING
    assert "1.0 GiB free now" in finding.evidence


def test_layers_that_the_student_does_not_have_are_told():
    def of(*names):
        return target_findings(SMOLLM, TrainConfig(student="any", lora=LoraConfig(target_modules=names)))

    assert of("q_proj", "v_proj") == []
    assert target_findings(SMOLLM, TrainConfig(student="any")) == []
    (partly,) = of("q_proj", "lm_head")
    (none,) = of("c_attn")
    assert (partly.severity, none.severity) == (Severity.WARNING, Severity.ERROR)
    assert "tied" in partly.cause
    assert "c_attn is none of q_proj" in none.evidence


def test_a_container_s_limit_and_the_processor_s_bf16_decide_about_ram():
    host = read_host().model_copy(update={"ram_bytes": 64 * GIB, "ram_limit_bytes": 4 * GIB, "cpu_features": ("avx2",)})
    found = ram_room(host, 60 * GIB, None)
    assert found is not None
    assert (found.total_bytes, found.free_bytes, found.compute_bytes) == (4 * GIB, 4 * GIB, 4)
    with_bf16 = host.model_copy(update={"cpu_features": ("avx512_bf16",)})
    assert ram_room(with_bf16, None, None).compute_bytes == 2
    assert ram_room(host, None, "bfloat16").compute_bytes == 2
    assert ram_room(host.model_copy(update={"ram_bytes": None, "ram_limit_bytes": None}), None, None) is None
    assert gpu_room(T4.model_copy(update={"memory_total_mib": None})) is None


def test_the_part_reads_this_machine_and_tells_estimate_and_preset(tmp_path):
    context = context_of("demo", "train.per_device_train_batch_size=1", "train.max_length=64")
    readings = readings_of(context, tmp_path)
    assert fit.CAPABILITY.findings(readings, context) == []
    told = {fact.name: fact for fact in fit.CAPABILITY.facts(readings, context)}
    assert "GiB with batch 1 of 64 tokens" in told["training's memory"].value
    assert told["preset"].value.startswith("cpu-tiny: ")


def test_a_student_far_too_large_for_this_machine_blocks_with_its_numbers(tmp_path):
    context = context_of("demo", "train.student=qwen2.5-1.5b-instruct", "train.max_length=100000")
    merging, training = fit.CAPABILITY.findings(readings_of(context, tmp_path), context)
    assert (merging.code, training.code) == ("merge-memory", "fits")
    assert training.severity is merging.severity is Severity.ERROR
    assert "smollm2-135m-instruct" not in training.remedy  # it does not fit with such rows either


def test_where_nothing_can_be_read_nothing_is_estimated(tmp_path):
    context = context_of("demo")
    assert fit.CAPABILITY.findings({}, context) == []
    assert fit.CAPABILITY.facts({}, context) == []
    without_memory = run_probes(fit.probes(context), tmp_path)
    (finding,) = fit.CAPABILITY.findings(without_memory, context)
    assert finding.severity is Severity.INFO
    assert "cannot be read" in finding.evidence


def test_a_student_of_another_family_is_not_estimated(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    text = (config.shipped("models") / "tinyllama-1.1b-chat.yaml").read_text(encoding="utf-8")
    (folder / "strange.yaml").write_text(text.partition("shape:")[0], encoding="utf-8")
    (folder / "broken.yaml").write_text("roles: 3\n", encoding="utf-8")
    base = context_of("demo", "train.student=strange")
    context = Context(base.profile, tmp_path, base.roles, base.workspace, base.cache)
    readings = readings_of(context, tmp_path / "scratch")
    (finding,) = fit.CAPABILITY.findings(readings, context)
    assert finding.severity is Severity.INFO
    assert "not estimated" in finding.evidence
    assert "broken" not in fit.smaller_students(context, room("cpu", 1000))


def test_a_student_whose_shape_is_known_is_not_said_to_be_missing_where_the_device_is(tmp_path):
    context = context_of("demo", "train.student=qwen2.5-1.5b-instruct", "train.device=cuda")
    (finding,) = fit.CAPABILITY.findings(run_probes(fit.probes(context), tmp_path), context)
    assert finding.evidence == "not estimated: the memory of the device it trains on cannot be read"
    assert "shape" not in finding.remedy


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_without_a_gpu_a_training_on_one_has_no_room_and_auto_takes_the_ram(device, tmp_path):
    context = context_of("demo", f"train.device={device}")
    readings = {"machine.system": readings_of(context, tmp_path)["machine.system"]}
    found = fit.room_of(readings, context.profile.train)
    assert (found is None) == (device == "cuda")


def test_a_merge_that_does_not_fit_blocks_and_names_the_one_that_would():
    config = TrainConfig(student="qwen2.5-1.5b-instruct", max_length=512)
    need = merge_bytes(QWEN, config, onto_dequantised=False)
    assert need > 6 * QWEN.parameters()
    assert merge_findings(QWEN, config, "base", room("cpu", need / GIB * 1.01)) == []
    (finding,) = merge_findings(QWEN, config, "auto", room("cpu", need / GIB * 1.01))
    assert finding.code == "merge-memory"
    assert finding.remedy_argv[-1] == "export.merge=base"
    (finding,) = merge_findings(QWEN, config, "base", room("cpu", need / GIB / 1.1))
    assert finding.severity is Severity.WARNING
    (finding,) = merge_findings(QWEN, config, "base", room("cpu", 4))
    assert finding.severity is Severity.ERROR
    assert "> 4.0 GiB there is; export.merge base, 1.5 G parameters in fp32" in finding.evidence
    assert finding.remedy_argv == ()
