"""Curves of loss and gradient norm to judge detectors on: the recorded ones of tests/data/curves and generated ones.

A curve's fault begins at `fault_step`: an alarm before it is false, the first one from it on finds it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "data" / "curves"
RECORDED = FOLDER / "curves.jsonl"
_DIGITS = 5


@dataclass(frozen=True)
class Curve:
    """A training's steps from 0 on; `held_out` are pairs of step and loss; no `fault` means clean.

    `before` names the clean curve whose steps a faulty one shares until its fault.
    """

    name: str
    loss: tuple[float, ...]
    grad_norm: tuple[float, ...]
    held_out: tuple[tuple[int, float], ...] = ()
    fault: str | None = None
    fault_step: int | None = None
    about: str = ""
    before: str = ""


def recorded() -> list[Curve]:
    """Return the curves that real trainings left; tests/data/curves/README.md says how."""
    clean: dict[str, Curve] = {}
    curves = []
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        curve = _read(record, clean.get(record["before"]))
        curves.append(curve)
        if curve.fault is None:
            clean[curve.name] = curve
    return curves


def _read(record: dict[str, Any], before: Curve | None) -> Curve:
    begins = record["fault_step"] or 0
    held_out = tuple((int(step), float(loss)) for step, loss in record["held_out"])
    earlier = {name: getattr(before, name)[:begins] if before else () for name in ("loss", "grad_norm")}
    return Curve(
        name=record["name"],
        loss=(*earlier["loss"], *map(float, record["loss"])),
        grad_norm=(*earlier["grad_norm"], *map(float, record["grad_norm"])),
        held_out=held_out,
        fault=record["fault"],
        fault_step=record["fault_step"],
        about=record["about"],
        before=record["before"],
    )


def write(curves: list[Curve], path: Path) -> None:
    """Write curves one a line, five digits a number, NaN and infinity as text; a fault's steps before it are its clean run's."""
    path.write_text("".join(json.dumps(_record(curve)) + "\n" for curve in curves), encoding="utf-8")


def _record(curve: Curve) -> dict[str, Any]:
    begins = curve.fault_step or 0
    return {
        "name": curve.name,
        "about": curve.about,
        "before": curve.before,
        "fault": curve.fault,
        "fault_step": curve.fault_step,
        "loss": [_short(value) for value in curve.loss[begins:]],
        "grad_norm": [_short(value) for value in curve.grad_norm[begins:]],
        "held_out": [(step, _short(loss)) for step, loss in curve.held_out],
    }


def _short(value: float) -> float | str:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else str(value)


STEPS = 1500
FAULTS_AT = (40, 700)
AFTER = 60
# degrees of freedom of Student's t whose kurtosis the recorded clean curves have: losses 0 to 1.2, gradient norms to 4.5
_TAILS = {"normal": (math.inf, math.inf), "heavy": (10.0, 6.0)}


def synthetic_clean() -> Iterator[Curve]:
    """Yield curves without a fault: noise as wide and as long-tailed as the recorded curves' is, drifts, epochs, restarts."""
    for seed in range(3):
        for width, tails in ((0.02, "normal"), (0.02, "heavy"), (0.1, "normal"), (0.1, "heavy"), (0.3, "normal")):
            yield _curve(f"{tails} noise {width}", seed, width, tails)
        yield _curve("epochs", seed, 0.1, "normal", level=_epochs(STEPS))
        yield _curve("curriculum", seed, 0.1, "normal", level=np.linspace(math.log(1.5), math.log(4.0), STEPS))
        yield _curve("restarts", seed, 0.1, "normal", level=_restarts(STEPS))
        yield _curve("warm-up", seed, 0.1, "normal", level=_decay(STEPS, 30.0, 4.0))


def synthetic_faulty() -> Iterator[Curve]:
    """Yield curves with a fault early and late: one step up, a step that stays, an exponential climb, NaN."""
    for seed in range(3):
        for width in (0.02, 0.1, 0.3):
            for at in FAULTS_AT:
                for name, shape in _FAULTS.items():
                    yield _faulty(name, seed, width, at, shape)


_FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "one step, loss x8": lambda steps: np.where(steps == 0, math.log(8.0), 0.0),
    "stays at loss x3": lambda steps: np.full(len(steps), math.log(3.0)),
    "climbs 10 % a step": lambda steps: 0.1 * (steps + 1),
    "NaN": lambda steps: np.full(len(steps), math.nan),
}


def _faulty(name: str, seed: int, width: float, at: int, shape: Callable[[np.ndarray], np.ndarray]) -> Curve:
    clean = _curve(f"{name}, noise {width}", seed, width, "normal")
    extra = np.concatenate([np.zeros(at), shape(np.arange(AFTER))])
    loss, norm = (np.asarray(values[: at + AFTER]) * np.exp(extra) for values in (clean.loss, clean.grad_norm))
    return Curve(f"{clean.name} at {at}", tuple(loss.tolist()), tuple(norm.tolist()), (), name, at)


def _curve(name: str, seed: int, width: float, tails: str, level: np.ndarray | None = None) -> Curve:
    rng = np.random.default_rng(seed)
    log_loss = _decay(STEPS, 4.0, 1.5) if level is None else level
    log_norm = np.full(STEPS, math.log(0.8)) + 0.3 * (log_loss - log_loss[-1])
    loss = np.exp(log_loss + width * _noise(rng, _TAILS[tails][0]))
    norm = np.exp(log_norm + 1.5 * width * _noise(rng, _TAILS[tails][1]))
    return Curve(f"{name}, seed {seed}", tuple(loss.tolist()), tuple(norm.tolist()))


def _noise(rng: np.random.Generator, freedom: float) -> np.ndarray:
    return rng.standard_normal(STEPS) if math.isinf(freedom) else rng.standard_t(freedom, STEPS)


def _decay(steps: int, first: float, last: float) -> np.ndarray:
    return np.log(last + (first - last) * np.exp(-np.arange(steps) / (steps / 12)))


def _epochs(steps: int) -> np.ndarray:
    """Loss that drops by a fifth where an epoch ends, as training on few rows does."""
    return math.log(2.0) - 0.22 * (np.arange(steps) // (steps // 5))


def _restarts(steps: int) -> np.ndarray:
    """Loss that rises by 15 % over twenty steps when a cosine schedule begins again, and falls from there."""
    phase = np.arange(steps) % (steps // 4)
    return math.log(1.8) + 0.15 * np.clip(phase / 20, 0, 1) * np.exp(-phase / 150)
