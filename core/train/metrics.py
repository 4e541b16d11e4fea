"""What a training tells while it runs, as JSON lines for whoever watches: starts, steps, held-out losses.

Two runs never write the same, so no digest is taken of it. Read back in recorded.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.files import digest_of
from core.train.section import TrainConfig

# what decides how long a step takes; the rest of the configuration decides what comes of it
_SPEED = (
    "student",
    "quantisation",
    "double_quantisation",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "optim",
    "max_length",
    "packing",
    "gradient_checkpointing",
    "distillation",
)
_LORA_SPEED = ("r", "target_modules", "use_dora")


def speed_key(config: TrainConfig) -> str:
    """Return the hash of the settings that decide how long a step takes, on a machine and with rows that are given."""
    told = config.model_dump(mode="json")
    lora = {name: told["lora"][name] for name in _LORA_SPEED}
    return digest_of({**{name: told[name] for name in _SPEED}, **lora, **told["parallel"]})


class Metrics:
    """Appends lines to a file, each in one piece, and holds a shared lock on it for as long as it lives.

    So a reader knows a training that runs from one that was killed. One that went back writes its steps again, with their
    own times. `gauges` returns what can be read beside a step, sizes in bytes by name.
    """

    def __init__(
        self, path: Path, gauges: Callable[[], Mapping[str, float]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._gauges = gauges
        self._clock = clock
        self._began = clock()
        self._beside: dict[str, Any] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        fcntl.flock(self._handle, fcntl.LOCK_SH)
        self._end_broken_line()

    def start(self, **facts: Any) -> None:
        """Write that a process begins or goes on, what it trains and on what."""
        self._append({"kind": "start", **facts})

    def begin(self) -> None:
        """Begin to measure a step here: what came before it, a save or an evaluation, is not its time."""
        self._began = self._clock()

    def beside(self, **facts: Any) -> None:
        """Keep something for the next step's line."""
        self._beside |= facts

    def write(self, record: dict[str, Any], tokens: int) -> None:
        """Write the line of a step that ends now; `tokens` went through the model, padding not counted."""
        seconds = self._clock() - self._began
        beside, self._beside = self._beside, {}
        speed = {"tokens": tokens, "step_s": seconds, "tokens_per_s": tokens / seconds}
        self._append({"kind": "step", **record, **speed, **self._gauges(), **beside})

    def held_out(self, step: int, loss: float) -> None:
        """Write a held-out loss, in nats; step 0 is the base's."""
        self._append({"kind": "held-out", "step": step, "held_out_loss": loss})

    def _append(self, line: dict[str, Any]) -> None:
        told = {"at": datetime.now(UTC).isoformat(), **line}
        os.write(self._handle, json.dumps(told).encode() + b"\n")

    def _end_broken_line(self) -> None:
        """End the line that a process was killed in, so that the next is whole."""
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")
