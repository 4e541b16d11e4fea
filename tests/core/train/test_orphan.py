"""A worker without a supervisor ends by itself, the kernel ends it when it hangs; real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from core.attended_worker import attending
from core.errors import Terminated
from core.train.eviction import Watcher
from core.train.limits import DetectionLimits, EvictionLimits
from core.train.orphan import Attendance
from core.train.stop import Stop

REPOSITORY = Path(__file__).parents[3]
HUNG = """
import sys, time
from pathlib import Path
from core.train.limits import DetectionLimits
from core.train.orphan import Attendance
attendance = Attendance(Path(sys.argv[1]), 0.5, DetectionLimits(first_step_s=0.5))
for _ in range(int(sys.argv[2])):
    attendance.alone_s()
    time.sleep(0.1)
print("hangs", flush=True)
time.sleep(60)
"""


def disarmed(attendance: Attendance) -> Attendance:
    """Take back the alarm, which would end the tests."""
    signal.alarm(0)
    return attendance


def test_a_worker_is_asked_to_end_once_nobody_attended_for_as_long_as_it_may_be_alone(tmp_path):
    lock = tmp_path / "supervisor"
    try:
        with attending(lock):
            attendance = Attendance(lock, 0.3, DetectionLimits())
            stop = Stop(Watcher(EvictionLimits(cloud="none")), attendance)
            time.sleep(0.4)
            assert attendance.alone_s() == 0
            assert stop.asked is None
        assert stop.asked is None
        time.sleep(0.4)
        asked = stop.asked
        assert isinstance(asked, Terminated)
        assert "no supervisor for 0.4" in asked.problem
        with attending(lock):
            assert stop.asked is None  # it was taken over in time
    finally:
        disarmed(attendance)


def test_the_kernel_ends_a_worker_that_hangs_though_it_hears_nothing(tmp_path):
    command = [sys.executable, "-c", HUNG, str(tmp_path / "supervisor"), "15"]
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGALRM
    assert done.stdout == b"hangs\n"  # as long as it showed life it was let be
    assert time.monotonic() - began < 30
