"""A student's shape: the sizes its parameters, memory and quantisation follow from. Pure; read from config.json or a card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from core.contract import Contract

# the families whose blocks are Llama's: q, k, v, o and a gated MLP, each a matrix of its own
_DENSE = {"llama", "mistral", "qwen2", "qwen3"}
_BIASED = {"qwen2"}  # q, k and v have a bias whatever the configuration says
_NORMED = {"qwen3"}  # queries and keys are normalised


class Matrix(NamedTuple):
    """A linear layer of a block, by its Hugging Face name, with the width of its rows (`inputs`) and their number."""

    name: str
    inputs: int
    outputs: int


class ModelShape(Contract):
    """The sizes of a dense decoder of Llama's kind."""

    vocab_size: int = Field(ge=1)
    hidden_size: int = Field(ge=1)
    intermediate_size: int = Field(ge=1)
    num_hidden_layers: int = Field(ge=1)
    num_attention_heads: int = Field(ge=1)
    num_key_value_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    tie_word_embeddings: bool
    attention_bias: bool = False
    qk_norm: bool = False

    @property
    def attention_size(self) -> int:
        """The width of all query heads together."""
        return self.num_attention_heads * self.head_dim

    @property
    def key_value_size(self) -> int:
        """The width of all key heads together; the value heads are as wide."""
        return self.num_key_value_heads * self.head_dim

    def matrices(self) -> tuple[Matrix, ...]:
        """Return the linear layers of one block."""
        hidden, attention, inner = self.hidden_size, self.attention_size, self.intermediate_size
        return (
            Matrix("q_proj", hidden, attention),
            Matrix("k_proj", hidden, self.key_value_size),
            Matrix("v_proj", hidden, self.key_value_size),
            Matrix("o_proj", attention, hidden),
            Matrix("gate_proj", hidden, inner),
            Matrix("up_proj", hidden, inner),
            Matrix("down_proj", inner, hidden),
        )

    def block_parameters(self) -> int:
        """Return the weights of all blocks' linear layers."""
        return self.num_hidden_layers * sum(matrix.inputs * matrix.outputs for matrix in self.matrices())

    def embedding_parameters(self) -> int:
        """Return the weights of the embedding and, where it is one of its own, of the output matrix."""
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    def parameters(self) -> int:
        """Return all parameters, norms and biases too."""
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        biases = self.attention_size + 2 * self.key_value_size if self.attention_bias else 0
        small = self.num_hidden_layers * (norms + biases) + self.hidden_size
        return self.block_parameters() + self.embedding_parameters() + small


def shape_of(config: Mapping[str, Any]) -> ModelShape | None:
    """Return the shape a config.json tells; None for another family than Llama's and where a size is missing."""
    family = config.get("model_type")
    if family not in _DENSE:
        return None
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1:
        return None
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    try:
        return ModelShape(
            **{name: config.get(name) for name in sizes},
            num_key_value_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            attention_bias=family in _BIASED,
            qk_norm=family in _NORMED,
        )
    except ValidationError:
        return None
