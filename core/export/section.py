"""The profile's section `export`: which GGUF files are made and how near to the trained model they must be."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from core.section import Operational, Section

QuantisationType = Literal["F32", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"]
MergeChoice = Literal["base", "dequantised", "auto"]
TensorType = Literal["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0", "IQ4_NL"]


class DivergenceLimits(Section):
    """The mean KL divergence a file of each type may have from the F32 file, in nats a token, over the held-out texts.

    Between three and six times what SmolLM2-135M shows (Q8_0 0.0044, Q4_K_M 0.053, Q4_0 0.28), whose hidden size of 576
    suits no K-quant; Llama-3-8B shows a quarter of that (llama.cpp, tools/perplexity/README.md).
    """

    F32: float = Field(default=0.001, ge=0)
    BF16: float = Field(default=0.01, ge=0)
    Q8_0: float = Field(default=0.02, ge=0)
    Q6_K: float = Field(default=0.06, ge=0)
    Q5_K_M: float = Field(default=0.12, ge=0)
    Q4_K_M: float = Field(default=0.25, ge=0)
    Q4_0: float = Field(default=1.0, ge=0)

    def of(self, kind: str) -> float:
        """Return the limit of a type."""
        return float(getattr(self, kind))


class TaskLimits(Section):
    """The least share of right answers a file must give on the held-out prompts that ask for one; none sets no limit."""

    exact_match: float | None = Field(
        default=None, ge=0, le=1, description="JSON, tool calls and short answers as hoped for"
    )
    json_valid: float | None = Field(default=None, ge=0, le=1)
    schema_valid: float | None = Field(default=None, ge=0, le=1)
    tool_name: float | None = Field(default=None, ge=0, le=1)
    tool_arguments: float | None = Field(default=None, ge=0, le=1)

    def asked(self) -> dict[str, float]:
        """Return the limits that are set, by task."""
        return {name: value for name, value in self if value is not None}


class TensorTypes(Section):
    """Types of parts of the model that differ from the file's own; none leaves them to llama-quantize."""

    attn: TensorType | None = None
    ffn: TensorType | None = None
    embedding: TensorType | None = Field(default=None, description="The token embeddings, and the output where it is tied")
    output: TensorType | None = None

    def asked(self) -> frozenset[str]:
        """Return the types that are asked for."""
        return frozenset(kind for kind in (self.attn, self.ffn, self.embedding, self.output) if kind)


class CardTexts(Section):
    """What only people know of a model, for its card; one written later tells what this says then."""

    title: str = Field(default="", max_length=200, description="None: the student's name and its teacher's")
    about: str = Field(default="", max_length=4000, description="What the model is for and how it was made")
    intended_use: str = Field(default="", max_length=4000, description="What it may be used for, and what it must not")


class ExportConfig(Section):
    """Which GGUF files are made and how good they must be."""

    quantisations: tuple[QuantisationType, ...] = Field(default=("Q8_0", "Q4_K_M", "Q4_0"), min_length=1)
    merge: MergeChoice = Field(
        default="base",
        description="Merge onto the student's own weights, onto the 4-bit ones it was trained on, or onto the better of both",
    )
    imatrix: bool = Field(default=False, description="Weigh what is rounded by what the training texts use")
    imatrix_tokens: int = Field(
        default=16_384, ge=256, le=1 << 22, description="Tokens of training text the importance matrix is made of, at most"
    )
    tensor_types: TensorTypes = TensorTypes()
    adapter_gguf: bool = Field(
        default=False, description="Also write the adapter alone as a GGUF file, for llama.cpp and Ollama beside the base"
    )
    required: Annotated[tuple[str, ...], Operational] = Field(
        default=("Q8_0",), description="The stage fails without these"
    )
    max_loss_increase: Annotated[float, Operational] = Field(
        default=0.5, ge=0, description="Nats a file's held-out loss may lie above the merged model's"
    )
    divergence_tokens: int = Field(
        default=4096, ge=256, le=1 << 20, description="Tokens of held-out text the divergence is measured on, at most"
    )
    max_divergence: Annotated[DivergenceLimits, Operational] = DivergenceLimits()
    task_prompts: int = Field(
        default=32,
        ge=0,
        le=100_000,
        description="Held-out prompts with a right answer (JSON, tools, short ones) that every file answers, at most; 0: none. "
        "Of more, those of the lowest hashes",
    )
    task_tokens: int = Field(default=256, ge=1, le=8192, description="Tokens of such an answer, at most")
    min_task: Annotated[TaskLimits, Operational] = TaskLimits()
    compare_prompts: Annotated[int, Operational] = Field(
        default=64,
        ge=0,
        le=100_000,
        description="Held-out prompts a new model is compared with the current one on before it is promoted, at most; 0: none",
    )
    compare_tokens: Annotated[int, Operational] = Field(
        default=256, ge=1, le=8192, description="Tokens of an answer in that comparison, at most"
    )
    memory_context: int = Field(
        default=2048, ge=32, le=1 << 20, description="Tokens the KV cache holds when a file's memory is told"
    )
    max_memory_mib: Annotated[int | None, Operational] = Field(
        default=None, ge=1, description="RAM a file may need on the board, its KV cache counted; none sets no limit"
    )
    card: Annotated[CardTexts, Operational] = CardTexts()
    timeout_s: Annotated[float, Operational] = Field(default=7200.0, gt=0)

    @model_validator(mode="after")
    def _requires_what_is_made(self) -> Self:
        if not self.required or (missing := [kind for kind in self.required if kind not in self.quantisations]):
            named = f"required={list(missing if self.required else ())!r}"
            raise ValueError(
                f"{named} is no part of quantisations={list(self.quantisations)!r}: require a type that is made"
            )
        return self
