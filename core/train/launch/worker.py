"""Starts the train worker in several processes on this machine with `accelerate launch`: `-m core.train.launch.worker FOLDER`.

It dies with its parent and the processes die with it; a signal to end is handed on to them. A process that is killed ends it
the same way, so that whoever attends sees a worker that was killed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from accelerate.commands.launch import launch_command, launch_command_parser
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from core.config import shipped
from core.errors import Terminated
from core.train.request import TrainRequest
from core.worker_process import adopt, die_with_parent, failure_in

_TOGETHER_S = 5


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
    try:
        launch_command(launch_command_parser().parse_args(arguments(folder)))
    except ChildFailedError as error:
        if (killed := _killed_by(error)) is None or not isinstance(failure_in(folder), Terminated | None):
            raise
        (folder / "failure.json").unlink(missing_ok=True)  # of one that was only told to end because of it
        if killed != signal.SIGKILL:
            signal.signal(killed, signal.SIG_DFL)
        os.kill(os.getpid(), killed)


def _killed_by(error: ChildFailedError) -> signal.Signals | None:
    """Return the signal that killed one of the first processes to end; who stays is ended by SIGTERM, by SIGKILL after 30 s."""
    first = min(failure.timestamp for failure in error.failures.values())
    early = [failure.exitcode for failure in error.failures.values() if failure.timestamp - first <= _TOGETHER_S]
    killed = [-status for status in early if status < 0 and status != -signal.SIGTERM]
    return signal.Signals(killed[0]) if killed else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
