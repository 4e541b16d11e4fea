"""Starts the train worker in several processes on this machine with `accelerate launch`: `-m core.train.launch.worker FOLDER`.

It dies with its parent and the processes die with it; a signal to end is handed on to them.
"""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate.commands.launch import launch_command, launch_command_parser

from core.config import shipped
from core.train.request import TrainRequest
from core.worker_process import adopt, die_with_parent


def arguments(folder: Path) -> list[str]:
    """Return what accelerate is told for the request in a worker's folder."""
    parallel = TrainRequest.model_validate_json((folder / "request.json").read_bytes()).config.parallel
    configuration = shipped("accelerate") / f"{parallel.strategy}.yaml"
    named = ["--config_file", str(configuration), "--num_processes", str(parallel.processes), "--module"]
    return [*named, "core.train.worker", str(folder)]


def main(folder: Path) -> None:
    """Run all processes to their end; the status is not 0 when one of them failed."""
    die_with_parent()
    adopt()
    launch_command(launch_command_parser().parse_args(arguments(folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
