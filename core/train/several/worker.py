"""Several processes that train one student together: which of them this is, and what they agree on between two steps.

Part of the train worker. One process is the case of one: nothing is sent. All are on one machine and see the same folders.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import torch
from torch import distributed

from core.worker_process import rank, ranks

__all__ = ["rank", "ranks"]

_EVERY = (
    "cpu"  # the backends of a training are gloo, or NCCL with gloo beside it (accelerate), so small things go by the CPU
)


def is_first() -> bool:
    """Say whether this process writes and tells; all others only compute."""
    return rank() == 0


def some_say(*mine: bool) -> tuple[bool, ...]:
    """Return for each question whether any process says yes; every process must ask at the same point."""
    return tuple(bool(count) for count in summed(*map(int, mine)))


def summed(*mine: int) -> tuple[int, ...]:
    """Return the sums of the numbers of all processes."""
    if ranks() == 1:
        return mine
    numbers = torch.tensor(mine, dtype=torch.int64)
    distributed.all_reduce(numbers, group=_beside())
    return tuple(numbers.tolist())


def together(mine: Iterable[int]) -> list[int]:
    """Return the numbers of all processes, each once, in order; every process must ask at the same point."""
    if ranks() == 1:
        return sorted(set(mine))
    of_all: list[list[int]] = [[] for _ in range(ranks())]
    distributed.all_gather_object(of_all, list(mine), group=_beside())
    return sorted({number for of_one in of_all for number in of_one})


@cache
def _beside() -> distributed.ProcessGroup:
    """Return a group that speaks from CPU to CPU: a word between two steps makes no GPU wait."""
    group: distributed.ProcessGroup = distributed.new_group(backend="gloo")
    return group


def wait_for_all() -> None:
    """Return when every process has come here."""
    summed(0)
