"""The label section of a profile: who the teacher is, how it is asked, what it may take, which of its answers is learned."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from core.field_types import EndpointUrl, VariableName
from core.section import Operational, Section

_SENT = frozenset({"messages", "model", "n", "stream", "tools", "logprobs", "top_logprobs"})
_MAX_SEED = 2**32 - 1  # what numpy takes


class Budget(Section):
    """What one labelling may take, all its sessions together; answers under way when a limit is reached still arrive."""

    max_requests: int | None = Field(default=None, ge=1, description="Requests sent, repeated ones too")
    max_tokens: int | None = Field(default=None, ge=1, description="Prompt and completion tokens")
    max_cost: float | None = Field(default=None, gt=0, description="Money, by label.prices")
    max_s: float | None = Field(default=None, gt=0, description="Seconds of one session")


class Prices(Section):
    """What the endpoint charges; without them no cost is known."""

    prompt_per_million: float = Field(ge=0, description="A million prompt tokens")
    completion_per_million: float = Field(ge=0, description="A million completion tokens")
    currency: str = Field(default="USD", pattern=r"^[A-Z]{3}$", description="ISO 4217 code")


class Judge(Section):
    """The model that chooses among a prompt's valid answers; it is asked at temperature 0."""

    teacher: str = Field(description="A teacher of configs/models")
    backend: Literal["llama-cpp", "openai"] = Field(default="openai", description="In process, or an endpoint")
    base_url: Annotated[EndpointUrl | None, Operational] = Field(default=None, description="Endpoint, for backend openai")
    api_key_env: Annotated[VariableName | None, Operational] = Field(
        default=None, description="NAME of the variable with the key"
    )
    prices: Annotated[Prices | None, Operational] = Field(default=None, description="What the judge's tokens cost")
    rubric: str = Field(
        default="Choose the answer that is right, complete and clear, in this order; of equally good ones the shorter.",
        min_length=1,
        description="What makes one answer better than another",
    )


class Samples(Section):
    """How many answers a prompt gets and which one the student learns."""

    count: int = Field(default=1, ge=1, le=64, description="Answers a prompt; more than one need a temperature above 0")
    choice: Literal["first", "agreement", "judge"] = Field(
        default="first", description="The first that is valid, the one most like the other valid ones, or the judge's"
    )
    judge: Judge | None = Field(default=None, description="Who judges, for choice judge")


class LabelConfig(Section):
    """Who the teacher is and how it is asked."""

    teacher: str = Field(description="A teacher of configs/models")
    backend: Literal["llama-cpp", "openai", "transformers"] = Field(
        default="llama-cpp", description="A GGUF in process, an endpoint, or a Hugging Face folder in a worker process"
    )
    base_url: Annotated[EndpointUrl | None, Operational] = Field(default=None, description="Endpoint, for backend openai")
    api_key_env: Annotated[VariableName | None, Operational] = Field(
        default=None, description="NAME of the variable with the key"
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        description="Fields of the endpoint's own, sent with each request; null leaves out max_tokens, temperature or seed."
        " response_format takes the place of the row's schema where there is one",
    )
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=96, ge=1, le=8192, description="Completion tokens at most")
    seed: int = Field(default=42, ge=0, le=_MAX_SEED)
    samples: Samples = Samples()
    top_logprobs: int = Field(default=0, ge=0, le=20, description="Likeliest tokens kept with each token of an answer")
    context_distillation: bool = Field(
        default=False, description="The student's record is written without hint and context"
    )
    redact: bool = Field(default=False, description="Replace personal data before anything is sent, as data.privacy says")
    max_failed_share: Annotated[float, Operational] = Field(default=0.2, ge=0, le=1)
    attempts: Annotated[int, Operational] = Field(default=3, ge=1, le=10)
    concurrency: Annotated[int, Operational] = Field(
        default=32, ge=1, le=256, description="Requests at once at most; how many are best is found out"
    )
    timeout_s: Annotated[float, Operational] = Field(default=120.0, gt=0, description="Time one request may take")
    patience_s: Annotated[float, Operational] = Field(
        default=3600.0, ge=0, description="How long to wait for an endpoint that was there and went down"
    )
    # it enters the identity of a teacher with backend transformers; for others it is none
    quantisation: Annotated[Literal["nf4", "fp4", "none"], Operational] = Field(
        default="none", description="4-bit format of the teacher's weights, for backend transformers"
    )
    # powers of two: with others the CPU's matrix kernels give a row's last bits by its place in the batch
    batch_size: Annotated[Literal[1, 2, 4, 8, 16, 32, 64, 128, 256], Operational] = Field(
        default=8, description="Prompts decoded at once, for backend transformers"
    )
    sync_s: Annotated[float, Operational] = Field(
        default=30.0, gt=0, le=3600, description="Seconds of answers a lost machine may cost, with a section remote"
    )
    budget: Annotated[Budget, Operational] = Budget()
    prices: Annotated[Prices | None, Operational] = Field(default=None, description="What tokens cost")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.backend == "openai" and self.base_url is None:
            raise ValueError("base_url is missing, backend is openai: give the address, such as http://127.0.0.1:8080/v1")
        if self.quantisation != "none" and self.backend != "transformers":
            raise ValueError(
                f"quantisation={self.quantisation}, backend is {self.backend}: only transformers loads in 4 bits"
            )
        if self.samples.count > 1 and self.temperature == 0:
            raise ValueError(f"samples.count={self.samples.count} at temperature 0 are all the same: raise temperature")
        if (self.samples.choice == "judge") != (self.samples.judge is not None):
            raise ValueError("samples.choice judge and samples.judge go together: give both, or neither")
        if self.budget.max_cost is not None and self.prices is None:
            raise ValueError("budget.max_cost says nothing without prices: give prices.prompt_per_million and the others")
        if taken := sorted(_SENT & self.extra_body.keys()):
            raise ValueError(f"extra_body may not hold {', '.join(taken)}: edgekiln says that itself")
        if self.extra_body and self.backend != "openai":
            raise ValueError(f"extra_body is for an endpoint, backend is {self.backend}")
        return self

    @model_validator(mode="after")
    def _has_one_currency(self) -> Self:
        judge = self.samples.judge
        currencies = {prices.currency for prices in (self.prices, judge and judge.prices) if prices}
        if len(currencies) > 1:
            raise ValueError(f"prices and samples.judge.prices are in two currencies, {' and '.join(sorted(currencies))}")
        return self
