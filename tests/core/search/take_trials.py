"""Takes and ends trials of a study without training, as a program: `take_trials.py CASE.json`; it can stop in the middle."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from core.config import SearchConfig, TrainConfig
from core.search.record import Measured
from core.search.study import Trials


def measured(drawn: dict) -> Measured:
    loss = abs(drawn["learning_rate"] * 1e4 - 3) + drawn["lora_dropout"]
    return Measured(held_out_loss=loss, base_held_out_loss=9.0, training_s=drawn["r"], trainable_parameters=1, steps=4)


def main(case: dict) -> None:
    config = SearchConfig.model_validate(case["search"])
    train = TrainConfig.model_validate(case["train"])
    with Trials(Path(case["folder"]), config, train) as trials:
        taken = 0
        while (trial := trials.take()) is not None:
            taken += 1
            if case.get("signal_in") == taken:
                (Path(case["folder"]) / "reached").touch()
                os.kill(os.getpid(), getattr(signal, case["signal"]))
            time.sleep(case.get("trial_s", 0.0))
            trials.finish(trial, measured(trial.params))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
