"""What is done about a step that stands out: replay it, pass it over, go back, or give up. Pure: no file is touched here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from core.train.alarm import Alarm
from core.train.attribution import Cause
from core.train.decision import Standing
from core.train.detection import LONGEST_RUN
from core.train.limits import SupervisionLimits


@dataclass(frozen=True)
class Move:
    """What is to be done; the training goes on from the newest verified checkpoint at or before `bound`, or the best one."""

    kind: Literal["replay", "skip", "go-back", "give-up"]
    reason: str
    bound: int | None = None
    changes: dict[str, object] = field(default_factory=dict)


def replay_bound(alarm: Alarm) -> int:
    """Return the last step whose weights are from before what an alarm tells of."""
    return max(0, alarm.step - (LONGEST_RUN + 1 if alarm.kind == "run" else 1))


def move_for(alarm: Alarm, cause: Cause | None, standing: Standing, limits: SupervisionLimits) -> Move:
    """Choose the next rung; `cause` is None for a step that was not replayed yet.

    A slow divergence has no step to replay. A checkpoint that is gone back to for the learning rate's sake was followed by
    a step that was as usual: the weights of the step just before the alarm may be what is wrong.
    """
    if not limits.acts:
        return Move("give-up", alarm.text)
    if alarm.metric == "held_out_loss":
        return _back(alarm.text, None, standing, limits, {"learning_rate_factor": _lower(standing, limits)})
    if cause is None:
        return Move("replay", alarm.text, replay_bound(alarm))
    reason = f"{alarm.text}; it was so again when replayed: {cause.text}"
    if cause.kind == "data":
        return _for_rows(alarm, cause, reason, standing, limits)
    bound = max(0, replay_bound(alarm) - 1)
    return _back(reason, bound, standing, limits, {"learning_rate_factor": _lower(standing, limits)})


def _for_rows(alarm: Alarm, cause: Cause, reason: str, standing: Standing, limits: SupervisionLimits) -> Move:
    changes: dict[str, object] = {"left_out": cause.rows} if cause.rows else {"skipped_step": alarm.step}
    if alarm.kind == "run":
        return _back(reason, replay_bound(alarm), standing, limits, changes)
    if standing.skips < limits.max_skips:
        return Move("skip", reason, replay_bound(alarm), changes)
    lower = {**changes, "learning_rate_factor": _lower(standing, limits)}
    often = f"{reason}; {standing.skips} times passed over before"
    return _back(often, replay_bound(alarm), standing, limits, lower)


def _lower(standing: Standing, limits: SupervisionLimits) -> float:
    return standing.course.learning_rate_factor * limits.learning_rate_factor


def _back(
    reason: str, bound: int | None, standing: Standing, limits: SupervisionLimits, changes: dict[str, object]
) -> Move:
    if standing.rollbacks >= limits.max_rollbacks:
        return Move("give-up", f"{reason}; tried: {tried(standing)}")
    return Move("go-back", reason, bound, changes)


def tried(standing: Standing) -> str:
    """Say what was done about a training so far."""
    course = standing.course
    done = [
        f"{standing.rollbacks} times back to an earlier checkpoint" if standing.rollbacks else "",
        f"learning rate x {course.learning_rate_factor:g}" if course.learning_rate_factor < 1 else "",
        f"{len(course.left_out)} rows left out ({', '.join(course.left_out[:8])})" if course.left_out else "",
        f"{len(course.skipped_steps)} steps passed over" if course.skipped_steps else "",
    ]
    return ", ".join(part for part in done if part) or "nothing, train.supervision.max_rollbacks is 0"
