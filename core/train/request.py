"""What the train stage and its worker tell each other."""

from __future__ import annotations

from core.config import TrainConfig
from core.contract import Contract
from core.train.checkpoints import Training
from core.train.course import Course

WORKERS = "workers"  # in a training's scratch folder: a folder for every start of the worker
SAVING = "checkpoint, saving"  # the task of the Progress that is told before a checkpoint is written


class TrainRequest(Contract):
    """One training. `train` and `held_out` are files of TokenisedRow; `resume_from` is a checkpoint of that training.

    `held_out_losses` is only written where `config.eval_steps` asks for some. `suspect` is the step that is being replayed:
    a checkpoint is taken before it, and its rows are examined if it stands out again. With `measures` nothing is trained,
    the held-out loss of `resume_from` is measured. `supervisor` is the lock that shows whether somebody attends to it;
    `decisions` is the log of what was decided, which goes along with every checkpoint.
    `logprobs` is the teacher's `logprobs.parquet`, where the configuration reads it.
    """

    student_folder: str
    student_name: str
    train: str
    held_out: str
    adapter: str
    steps: str
    metrics: str
    held_out_losses: str
    checkpoints: str
    resume_from: str | None
    logprobs: str | None = None
    config: TrainConfig
    training: Training
    versions: dict[str, str]
    course: Course = Course()
    suspect: int | None = None
    measures: bool = False
    supervisor: str | None = None
    decisions: str | None = None
    rollbacks: int = 0


class TrainResult(Contract):
    """Losses in nats per completion token; `adapter_step` is the step whose weights the adapter holds."""

    base_held_out_loss: float
    held_out_loss: float
    steps: int
    adapter_step: int
    trainable_parameters: int
    trained_tokens: int
    device: str
