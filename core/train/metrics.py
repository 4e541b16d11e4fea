"""What each step took, as JSON lines for whoever watches; two runs never write the same, so no digest is taken of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class Metrics:
    """Appends a line a step to a file; a training that went back writes its steps again, with their own times.

    `memory` returns sizes in bytes by name.
    """

    def __init__(
        self, path: Path, memory: Callable[[], dict[str, int]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._path = path
        self._memory = memory
        self._clock = clock
        self._began = clock()

    def begin(self) -> None:
        """Begin to measure a step here: what came before it, a save or an evaluation, is not its time."""
        self._began = self._clock()

    def write(self, record: dict[str, Any], tokens: int) -> None:
        """Write the line of a step that ends now; `tokens` went through the model, padding not counted."""
        seconds = self._clock() - self._began
        line = {
            "at": datetime.now(UTC).isoformat(),
            **record,
            "tokens": tokens,
            "step_s": seconds,
            "tokens_per_s": tokens / seconds,
            **self._memory(),
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
