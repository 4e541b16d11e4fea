"""When a training has waited long enough for a better held-out loss."""

from __future__ import annotations

from collections.abc import Sequence


def waited_enough(held_out_losses: Sequence[float], patience: int | None) -> bool:
    """Say whether the last `patience` losses were all no lower than an earlier one; never without patience."""
    if patience is None or not held_out_losses:
        return False
    best = min(range(len(held_out_losses)), key=held_out_losses.__getitem__)
    return len(held_out_losses) - 1 - best >= patience
