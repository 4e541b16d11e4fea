"""TRL's trainer made exact: it goes on from a checkpoint bit for bit and stops wherever it is told to. Part of the train worker.

Adapter weights are fp32 from the first step on: on a 4-bit base TRL alone starts in bf16 and comes back in fp32.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_pt_utils import nested_gather
from trl import SFTTrainer

from core.contract import Stage
from core.data.record import TokenisedRow
from core.env.host import read_host
from core.errors import EnvironmentFault, Terminated, TrainingDiverged
from core.events import CheckpointSaved, Evaluated, Note, OnEvent, Progress, TrainStep
from core.train import checkpoints, retention
from core.train.alarm import Alarm
from core.train.cadence import Cadence
from core.train.checkpoints import Manifest, Position, Taken
from core.train.detection import LONGEST_RUN, StepDetector
from core.train.distillation import worker as distillation
from core.train.early_stopping import waited_enough
from core.train.gauges.worker import clipped_by, device_name, layer_grad_norms
from core.train.halted import Evidence, Halt, Halted
from core.train.headroom import Headroom
from core.train.held_out.worker import IGNORED, Evaluation
from core.train.metrics import Metrics, speed_key
from core.train.request import SAVING, TrainRequest
from core.train.several import worker as several
from core.train.shards import worker as shards
from core.train.state import worker as state
from core.train.stop import Stop
from core.train.suspects.worker import ROW_PLACES, Collator, Suspects
from core.train.trend import HeldOutDetector

_HELD_OUT = "held_out_loss"


@dataclass(frozen=True)
class Around:
    """What a trainer works with beside its model; `resumed` is the manifest of the checkpoint it goes on from."""

    request: TrainRequest
    rows: list[TokenisedRow]
    on_event: OnEvent
    stop: Stop
    cadence: Cadence
    evaluation: Evaluation
    device: str
    resumed: Manifest | None
    metrics: Metrics
    headroom: Headroom


class WaitedEnough(Exception):
    """The held-out loss has not been the best for as long as the configuration waits; the training is at its end."""


def step_records(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the record of every step from the trainer's log; no times, so that an undisturbed run writes the same."""
    fields = ("step", "loss", "learning_rate", "grad_norm", "trained_tokens")
    return [{name: entry[name] for name in fields} for entry in history if "loss" in entry]


def held_out_records(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the held-out losses measured while training, from the trainer's log."""
    return [{"step": entry["step"], _HELD_OUT: entry[_HELD_OUT]} for entry in history if _HELD_OUT in entry]


def fix_adapter_dtype(model: torch.nn.Module) -> None:
    """Put the adapter in fp32 before the optimiser is built: TRL casts it to bf16 on a 4-bit base, a resume loads fp32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)


def _require_adapter_dtype(model: torch.nn.Module) -> None:
    wrong = [name for name, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
    if wrong:
        raise EnvironmentFault(
            f"adapter weight {wrong[0]} is not fp32 when training starts ({len(wrong)} such), a resume would not be exact",
            remedy="Install the pinned versions of torch, transformers, peft and trl.",
        )


class ExactTrainer(SFTTrainer):  # type: ignore[misc]  # trl carries no types
    """Tells every step, keeps checkpoints, and halts before a step that stands out changes a weight."""

    data_collator: Any
    _signature_columns: Any

    def __init__(self, around: Around, **named: Any) -> None:
        super().__init__(**named)
        fix_adapter_dtype(self.model)
        self._around = around
        self._trained_tokens: int | torch.Tensor = 0
        self._tokens: int | torch.Tensor = 0
        self._finished_step = around.resumed.taken.step if around.resumed else 0
        limits = around.request.config.detection
        self._detector, self._held_out = StepDetector(limits), HeldOutDetector(limits)
        self._suspects = Suspects(around.rows, around.request.course, limits.reference_rows, around.on_event)
        self._distillation = around.request.config.distillation
        inner = distillation.collator(self.data_collator) if self._distillation else self.data_collator
        self.data_collator = Collator(inner, self._suspects.left_out)
        self._is_skipping = False

    def compare_with(self, base_loss: float) -> None:
        """Note the base's held-out loss, from which the trained ones begin."""
        self._held_out.evaluated(0, base_loss)

    # --- going on from a checkpoint: the trainer's own loading, from our files

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        state.load_adapter(model or self.model, Path(resume_from_checkpoint))

    def create_optimizer(self, *args: Any, **named: Any) -> Any:
        """Build the optimiser on an adapter that is in fp32, at the first start and after a resume."""
        _require_adapter_dtype(self.model)
        return super().create_optimizer(*args, **named)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            state.load_optimiser(self.optimizer, Path(checkpoint))
            state.load_schedule(self.lr_scheduler, Path(checkpoint))
            state.set_rate(self.optimizer, self.lr_scheduler, self.args.learning_rate)

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler is not None:
            state.load_scaler(self.accelerator.scaler, Path(checkpoint))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._around.resumed is None:
            return
        taken = self._around.resumed.taken
        other = [f"random generator {name}" for name in state.load_rng(Path(checkpoint), several.rank())]
        if taken.threads != torch.get_num_threads():
            other.append(f"{torch.get_num_threads()} threads instead of {taken.threads}")
        if (taken.device, taken.dtype) != (self._around.device, str(self.model.dtype)):
            other.append(f"{self._around.device} {self.model.dtype} instead of {taken.device} {taken.dtype}")
        if other:
            text = f"step {taken.step} was taken elsewhere, what follows may differ in the last bits: {', '.join(other)}"
            self._around.on_event(Note(stage=Stage.TRAIN, text=text, level="warning"))

    def _init_training_state(self, *args: Any, **named: Any) -> tuple[int, int]:
        epochs, micro_batches = super()._init_training_state(*args, **named)
        resumed = self._around.resumed
        there = self._position(self.state.global_step)
        if resumed is not None and (
            not resumed.taken.position.is_at(there) or resumed.taken.step != self.state.global_step
        ):
            raise EnvironmentFault(
                f"the checkpoint of step {resumed.taken.step} stands at {resumed.taken.position!r} of the data, the trainer "
                f"would go on at {there!r}",
                remedy="Run with the rows and batch sizes it was taken with.",
            )
        return epochs, micro_batches

    def _prepare_for_training(self, *args: Any, **named: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **named)
        step = self.state.global_step
        for record in step_records(self.state.log_history):
            self._detector.step(record["step"], record["loss"], self._judged_norm(record["grad_norm"]))
        measured = held_out_records(self.state.log_history)
        for record in measured:
            self._held_out.evaluated(record["step"], record[_HELD_OUT])
        if step and self._evaluation_is_due(step) and step not in {record["step"] for record in measured}:
            self._evaluate_held_out()  # the end came between saving and measuring
        self._tell_start(step)
        self._around.metrics.begin()
        return prepared

    def _tell_start(self, step: int) -> None:
        self._around.metrics.start(
            after_step=step,
            steps=self.state.max_steps,
            rows=len(self.train_dataset),
            device=self._around.device,
            device_name=device_name(self._around.device),
            host=read_host().fingerprint,
            processes=several.ranks(),
            trainable_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            speed=speed_key(self._around.request.config),
        )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*dict.fromkeys([*self._signature_columns, ROW_PLACES, *distillation.COLUMNS])]

    # --- one step

    def get_batch_samples(self, *args: Any, **named: Any) -> tuple[list[Any], Any]:
        """Fetch a step's micro-batches; nothing is learned at a step that is passed over or has only rows left out."""
        batches, items = super().get_batch_samples(*args, **named)
        is_passed_over = self.state.global_step + 1 in self._around.request.course.skipped_steps
        self._is_skipping = is_passed_over or (items is not None and int(items) == 0)
        self._suspects.next_step()
        return batches, items

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: Any, **named: Any
    ) -> torch.Tensor:
        """Count the tokens of a micro-batch, without waiting for the GPU, and learn from it."""
        self._suspects.take(inputs)
        if self._is_skipping:
            return torch.zeros((), device=self.args.device)
        seen = inputs.get("attention_mask")
        self._tokens += inputs["input_ids"].numel() if seen is None else seen.sum()
        self._trained_tokens += (inputs["labels"][:, 1:] != IGNORED).sum()
        loss: torch.Tensor = super().training_step(model, inputs, *rest, **named)
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        return torch.zeros(()) if self._is_skipping else super()._clip_grad_norm(model)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
        """Return the loss of a batch: TRL's, or the one that learns from the teacher's words too."""
        if self._distillation is None:
            return super().compute_loss(model, inputs, *rest, **named)
        # `num_items_in_batch` counts the tokens of all ranks, whose gradients are averaged
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return distillation.distilled_loss(model, inputs, self._distillation, named.get("num_items_in_batch"), ranks)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        if self._is_skipping:  # the optimiser then does nothing, its moments and fp16's scale stay as they are
            self.accelerator.gradient_state._set_sync_gradients(sync_gradients=False)
            return 0.0
        norm = shards.whole(super()._get_grad_norm(model, grad_norm=grad_norm))
        loss = float(nested_gather(self._tr_loss, self.args.parallel_mode).mean())  # as it will be logged
        for alarm in self._detector.step(self.state.global_step + 1, loss, self._judged_norm(norm)):
            self._heed(alarm)
        every = self._around.request.config.layer_norm_steps
        asked = every is not None and (self.state.global_step + 1) % every == 0 and math.isfinite(float(norm))
        if asked and not shards.is_sharded(self.model):
            norms = layer_grad_norms(self.model, clipped_by(float(norm), self.args.max_grad_norm))
            self._around.metrics.beside(layer_grad_norms=norms)
        return norm

    def _judged_norm(self, norm: Any) -> float | None:
        """Return the norm to judge; in fp16 an infinite one is how the scaler finds its scale, it skips such a step itself."""
        return None if self.args.fp16 else float(norm)

    def _heed(self, alarm: Alarm) -> None:
        """Halt where the supervisor is to decide, else tell of it."""
        acts = self._around.request.config.supervision.acts and not alarm.is_warning
        if not acts and alarm.kind not in ("nan", "infinite"):
            self._around.on_event(Note(stage=Stage.TRAIN, text=alarm.text, level="warning"))
            return
        is_replayed = alarm.step == self._around.request.suspect and alarm.metric != _HELD_OUT
        raise Halt(Halted(alarm=alarm, evidence=self._examined(alarm) if is_replayed else None))

    def _examined(self, alarm: Alarm) -> Evidence:
        """Examine the step's rows on the weights before it; those of a run on the weights before the run."""
        checkpoint = self._around.request.resume_from
        if alarm.kind != "run":
            return self._suspects.examine(self.model, 1, self.compute_loss_context_manager())
        if checkpoint is not None:
            state.load_adapter(self.model, Path(checkpoint))
        return self._suspects.examine(self.model, LONGEST_RUN, self.compute_loss_context_manager())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record a step and tell it; of a step that was passed over there is nothing to record."""
        if "loss" not in logs:
            super().log(logs, start_time)
        elif not self._is_skipping:
            self._record(logs, start_time)

    def _record(self, logs: dict[str, float], start_time: float | None) -> None:
        logs["trained_tokens"], tokens = several.summed(int(self._trained_tokens), int(self._tokens))
        self._trained_tokens = self._tokens = 0
        super().log(logs, start_time)
        (record,) = step_records(self.state.log_history[-1:])
        if several.is_first():
            with Path(self._around.request.steps).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(record) + "\n")
        self._around.metrics.write(record, tokens)
        told = {name: value for name, value in record.items() if name != "trained_tokens"}
        self._around.on_event(TrainStep(steps=self.state.max_steps, **told))
        done, total = record["step"], self.state.max_steps
        self._around.on_event(Progress(stage=Stage.TRAIN, task="train", done=done, total=total, unit="steps"))

    # --- between two steps: save, obey a stop, measure the held-out loss

    def _maybe_log_save_evaluate(self, *args: Any, **named: Any) -> None:
        super()._maybe_log_save_evaluate(*args, **named)
        step = self.state.global_step
        if step == self._finished_step:  # called again at the end of an epoch
            return
        self._finished_step = step
        stop, evaluate = self._around.stop, self._evaluation_is_due(step)
        due = (self._around.cadence.due(step) and several.is_first()) or stop.advises_save()
        due, asked, forbidden = several.some_say(due, stop.is_asked(), not stop.allows(self._around.cadence.save_s))
        is_before_suspect = step + 1 == self._around.request.suspect
        if not forbidden and (due or evaluate or asked or is_before_suspect or step == self.state.max_steps):
            self._save()
        if asked:
            stop.obey()
            if several.ranks() > 1:
                raise Terminated("another process of this training was told to stop", remedy="Start it again.")
        if evaluate:
            self._evaluate_held_out()
        self._around.headroom.mind(step)
        self._around.metrics.begin()

    def _evaluation_is_due(self, step: int) -> bool:
        every = self._around.request.config.eval_steps
        return every is not None and step % every == 0

    def _evaluate_held_out(self) -> None:
        step = self.state.global_step
        try:
            loss = self._around.evaluation.loss(self.model, f"step {step}")
        except TrainingDiverged:
            loss = math.nan
        alarms = self._held_out.evaluated(step, loss)
        if math.isfinite(loss):
            self._tell_held_out(step, loss)
        for alarm in alarms:
            self._heed(alarm)

    def _tell_held_out(self, step: int, loss: float) -> None:
        self.state.log_history.append({"step": step, _HELD_OUT: loss})
        scores = {record["step"]: record[_HELD_OUT] for record in held_out_records(self.state.log_history)}
        if several.is_first():
            retention.write_scores(Path(self._around.request.checkpoints), scores)
        self._around.metrics.held_out(step, loss)
        self._around.on_event(Evaluated(step=step, held_out_loss=loss))
        enough = waited_enough(list(scores.values()), self._around.request.config.early_stopping_patience)
        if several.some_say(enough and several.is_first())[0]:
            raise WaitedEnough

    def _save(self) -> None:
        around, step = self._around, self.state.global_step
        folder, scratch = Path(around.request.checkpoints), Path(self.args.output_dir)
        around.on_event(Progress(stage=Stage.TRAIN, task=SAVING, done=step, total=self.state.max_steps, unit="steps"))
        with around.cadence.saving():
            written = scratch / f"step-{step}"
            if several.is_first():
                state.cleared(written)
            several.wait_for_all()
            if not several.is_first():
                state.save_rng(written, several.rank())
            weights, optimiser = shards.whole_adapter(self.model), shards.whole(self.optimizer.state_dict())
            several.wait_for_all()
            if several.is_first():
                self._keep(written, folder, weights, optimiser)
            several.wait_for_all()
        around.on_event(CheckpointSaved(step=step))
        if several.is_first():
            replayed_from = around.request.resume_from if around.request.suspect is not None else None
            retention.thin(folder, scratch, in_use=lambda path: str(path) == replayed_from)

    def _keep(
        self, written: Path, folder: Path, weights: dict[str, torch.Tensor] | None, optimiser: dict[str, Any]
    ) -> None:
        try:
            checkpoints.keep(written, folder, self._write(written, weights, optimiser))
        finally:  # on a full disk what was half written gives its space back
            shutil.rmtree(written, ignore_errors=True)

    def _write(self, folder: Path, weights: dict[str, torch.Tensor] | None, optimiser: dict[str, Any]) -> Taken:
        request, step = self._around.request, self.state.global_step
        state.save_adapter(self.model, folder, request.student_name, weights)
        state.save_optimiser(optimiser, folder)
        state.save_schedule(self.lr_scheduler, self.accelerator.scaler, folder)
        self.state.save_to_json(str(folder / state.TRAINER_STATE))
        if request.decisions is not None and Path(request.decisions).exists():
            shutil.copyfile(request.decisions, folder / checkpoints.DECISIONS)
        return Taken(
            step=step,
            training=request.training,
            position=self._position(step),
            rng=state.save_rng(folder),
            versions=request.versions,
            threads=torch.get_num_threads(),
            device=self._around.device,
            dtype=str(self.model.dtype),
            rollbacks=request.rollbacks,
        )

    def _position(self, step: int) -> Position:
        """Return where the data stands after a step: its processes take turns batch by batch, the last epoch's ends filled up."""
        rows, batch = len(self.train_dataset), self.args.per_device_train_batch_size
        accumulation, processes = self.args.gradient_accumulation_steps, several.ranks()
        steps_of_epoch = math.ceil(math.ceil(math.ceil(rows / batch) / processes) / accumulation)
        epoch, steps_into = divmod(step, steps_of_epoch)
        used = steps_into * accumulation * batch * processes
        return Position(
            epoch=epoch, micro_batches=steps_into * accumulation, rows=epoch * rows + used, order_seed=self.args.data_seed
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write none: a checkpoint holds state, not prose."""
