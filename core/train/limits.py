"""The numbers that the watch for evictions and the detectors of a training gone wrong go by. No rule is here."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from core.field_types import EndpointUrl
from core.section import Operational, Section


def _plain(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.path not in {"", "/"} or parts.query:
        raise ValueError("is no http://HOST:PORT without a path: metadata services speak no TLS")
    return url


PlainUrl = Annotated[EndpointUrl, AfterValidator(_plain)]


class EvictionLimits(Section):
    """How it is heard that the machine is being taken away, and how much time that leaves."""

    cloud: Annotated[Literal["auto", "none", "AWS", "GCP", "Azure"], Operational] = Field(
        default="auto", description="Whose notices are polled; auto asks the firmware, and nobody off a cloud"
    )
    metadata_url: Annotated[PlainUrl | None, Operational] = Field(
        default=None, description="Where the metadata service is; none takes the clouds' own address"
    )
    sigterm_grace_s: Annotated[float, Operational] = Field(
        default=10.0, ge=0, description="Time between SIGTERM and SIGKILL; docker stop gives 10 s, Kubernetes 30 s"
    )
    margin_s: Annotated[float, Operational] = Field(
        default=2.0, ge=0, description="Time kept free before a deadline when a save is asked whether it fits"
    )
    within_s: Annotated[float, Operational] = Field(
        default=180.0, gt=0, description="A notice counts from so long before its deadline; some come days before"
    )


class DetectionLimits(Section):
    """When a step, a trend or a silence counts as wrong; every limit is a ratio, so that no loss's scale matters.

    The defaults are judged on the recorded and generated curves by tests/benchmarks/test_detection_figures.py. Of the
    10,400 recorded clean steps the worst adds up to 13.9 deviations (one odd batch of a calm run), the next to 9.9, the worst
    run to 11.4. Batches of poisoned rows begin at 15, a learning rate a thousand times too high at 11, one a hundred times
    too high between 5 and 23, and stay there.
    """

    window_steps: Annotated[int, Operational] = Field(
        default=128, ge=8, le=10_000, description="Earlier steps that make the baseline"
    )
    min_steps: Annotated[int, Operational] = Field(
        default=16, ge=4, description="Earlier steps from which on a step is judged by a baseline"
    )
    spike_sigmas: Annotated[float, Operational] = Field(
        default=16.0, gt=0, description="Robust deviations of loss and gradient norm together that make one step a spike"
    )
    run_sigmas: Annotated[float, Operational] = Field(
        default=13.0, gt=0, description="Those of 2, 4 or 8 steps in a row, added up, over the root of their number"
    )
    min_deviation: Annotated[float, Operational] = Field(
        default=0.15,
        gt=0,
        description="Least deviation assumed, as a share of the median: calm curves may move by that much",
    )
    held_out_window: Annotated[int, Operational] = Field(
        default=8, ge=5, le=64, description="Held-out losses whose trend is tested"
    )
    trend_p: Annotated[float, Operational] = Field(
        default=0.01, gt=0, lt=0.5, description="Chance at most of such a trend in losses without one"
    )
    min_rise: Annotated[float, Operational] = Field(
        default=0.02, gt=0, description="Share a held-out loss may lie above its best while it rises"
    )
    max_rise: Annotated[float, Operational] = Field(
        default=0.2, gt=0, description="Share it may lie above its best at all: held-out losses hardly scatter"
    )
    plateau_steps: Annotated[int, Operational] = Field(
        default=200, ge=40, le=100_000, description="Steps without progress that make a plateau"
    )
    plateau_gain: Annotated[float, Operational] = Field(
        default=0.01, gt=0, lt=1, description="Share the loss must fall by over those steps to be progress"
    )
    vanishing_share: Annotated[float, Operational] = Field(
        default=1e-3, gt=0, lt=1, description="Share of the first gradient norms' median below which gradients vanish"
    )
    vanishing_steps: Annotated[int, Operational] = Field(
        default=8, ge=1, description="Steps in a row that gradients must be so small"
    )
    stuck_multiple: Annotated[float, Operational] = Field(
        default=10.0, gt=1, description="Step times without a step after which a worker is stuck"
    )
    stuck_min_s: Annotated[float, Operational] = Field(
        default=60.0, gt=0, description="A worker is not stuck sooner, however fast its steps are"
    )
    stuck_after_steps: Annotated[int, Operational] = Field(
        default=3, ge=1, description="Steps whose time makes the usual step time"
    )
    first_step_s: Annotated[float, Operational] = Field(
        default=1800.0, gt=0, description="Silence allowed before those steps: loading, compiling"
    )
    others_sigmas: Annotated[float, Operational] = Field(
        default=4.0,
        gt=0,
        description="Deviations other rows' median loss may lie above the steps before, when a step is replayed",
    )
    row_sigmas: Annotated[float, Operational] = Field(
        default=8.0,
        gt=0,
        description="Robust deviations of loss and gradient norm together by which a row stands out from others",
    )
    reference_rows: Annotated[int, Operational] = Field(
        default=32, ge=4, le=1024, description="Other rows that a suspicious step's rows are compared with"
    )

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        """Refuse limits with which a detector could never say anything."""
        for name in ("min_steps", "stuck_after_steps"):
            if (steps := getattr(self, name)) > self.window_steps:
                raise ValueError(f"{name}={steps} > window_steps={self.window_steps}: there would never be a baseline")
        least = 1 / math.factorial(self.held_out_window)  # of one order among all
        if self.trend_p < least:
            raise ValueError(
                f"trend_p={self.trend_p:g} < {least:.2g}, the least chance of a trend in held_out_window="
                f"{self.held_out_window} losses: none would ever be seen"
            )
        if self.min_rise > self.max_rise:
            raise ValueError(f"min_rise={self.min_rise:g} > max_rise={self.max_rise:g}: a rising loss is allowed less")
        return self


class SupervisionLimits(Section):
    """What is done about a training that goes wrong, and how often."""

    acts: Annotated[bool, Operational] = Field(
        default=True, description="Mend a training that goes wrong; else only tell it, and end it at what is no number"
    )
    max_skips: Annotated[int, Operational] = Field(
        default=16, ge=0, description="Steps or rows passed over, and glitches that a replay did not repeat"
    )
    max_rollbacks: Annotated[int, Operational] = Field(
        default=3, ge=0, description="Times the training goes back to an earlier checkpoint; then it ends"
    )
    learning_rate_factor: Annotated[float, Operational] = Field(
        default=0.5, gt=0, le=1, description="What the learning rate is multiplied by when it is what went wrong"
    )
    max_restarts: Annotated[int, Operational] = Field(
        default=3, ge=0, description="Times in a row a worker that was killed or hung starts again from one checkpoint"
    )
    orphan_s: Annotated[float, Operational] = Field(
        default=600.0,
        ge=0,
        description="Time a worker goes on without a supervisor before it saves and ends; 0 ends it with its supervisor",
    )


class HeadroomLimits(Section):
    """How much memory a training leaves free before it does something about it, and for how long it waits for others."""

    min_gpu_mib: Annotated[int, Operational] = Field(default=256, ge=0, description="Least memory left on the GPU")
    min_host_mib: Annotated[int, Operational] = Field(default=512, ge=0, description="Least RAM left on the machine")
    min_cgroup_mib: Annotated[int, Operational] = Field(
        default=256, ge=0, description="Least RAM left of a container's limit"
    )
    patience_s: Annotated[float, Operational] = Field(
        default=120.0, ge=0, description="How long the training pauses at most while other programs hold the memory"
    )
