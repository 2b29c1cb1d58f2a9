"""What an encoder is: a configuration that can build the module and knows its weights by their Hugging Face names."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, model_validator

from jdistill.config import Config, UserError
from jdistill.student.attention import ChosenKernel
from jdistill.student.packing import Rows
from jdistill.student.stack import Remat
from jdistill.student.weights import Weight


@dataclass(frozen=True)
class Computing:
    """How an encoder computes what configuration and weights say. Dropout aside, only speed and memory depend on it."""

    dtype: jnp.dtype
    """Of matrix products and of the hidden states that are given; statistics, softmax and parameters are float32."""
    dropout: float = 0.0
    """Rate, where a key is given."""
    attention: ChosenKernel = "auto"
    """By which kernel."""
    remat: Remat = "none"
    """What the backward pass computes again."""
    scan: bool = False
    """Whether repeating layers are scanned."""


class Module(Protocol):
    """What `make_module` returns, an `nnx.Module`."""

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """One vector per place after each of `layers`, counted as layers done; 0 is the embeddings.

        They are transformers' hidden states: where an encoder ends with a norm, only the last layer's have it.
        """
        ...


class EncoderConfig(Config):
    """One architecture. A subclass adds `kind`, its sizes and the members below, all in one file with its module."""

    hf_prefix: ClassVar[str] = ""
    """Taken off tensor names where it is there: checkpoints with a task head have it, bare ones do not."""
    hf_ignored: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of tensors that no text vector depends on."""
    special_tokens: ClassVar[bool] = True
    """Whether texts are tokenised with the tokenizer's special tokens around them."""
    scaled_words: ClassVar[bool] = False
    """Whether the vectors of words are multiplied by the square root of the width."""
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """Name of a published model -> the fields that make its size."""

    kind: str
    vocab_size: int
    """Tokens."""
    size: str | None = Field(default=None, exclude=True)
    """Name of a published model of this kind, such as `tiny` of `bert` or `ettin-17m` of `modernbert`: it has what is
    left out of depth, widths and heads. Once read, these stand in its place."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("size") is None:
            return data
        name, given = data["size"], {field: value for field, value in data.items() if field != "size"}
        if not cls.sizes:
            raise ValueError(f"size is {name!r}, but no sizes of this kind are known by name. State them one by one.")
        if name not in cls.sizes:
            near = difflib.get_close_matches(str(name), cls.sizes, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise ValueError(f"size is {name!r}. {hint}Known: {', '.join(cls.sizes)}.")
        return {**cls.sizes[name], **given}

    @property
    def width(self) -> int:
        """Width of a token's vector."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """Layers; 0 if a token's vector depends on no other token."""
        raise NotImplementedError

    @property
    def max_positions(self) -> int | None:
        """Longest input in tokens; None without a limit."""
        raise NotImplementedError

    @property
    def stored_positions(self) -> int | None:
        """Longest input that a table has positions for; None where positions are computed, as rotary ones are."""
        stored = any(weight.path == "embeddings.positions" for weight in self.weights())
        return self.max_positions if stored else None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "EncoderConfig":
        """The architecture that a Hugging Face `config.json` describes.

        Raises:
          UserError: if it describes a variant that is not implemented.
        """
        raise NotImplementedError

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this architecture."""
        raise NotImplementedError

    def weights(self) -> list[Weight]:
        """The weight table."""
        raise NotImplementedError

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> nnx.Module:
        """The module with random float32 parameters."""
        raise NotImplementedError

    def with_layers(self, layers: Sequence[int]) -> "EncoderConfig":
        """The shallower encoder that consists of some of the layers, in this order.

        Raises:
          UserError: if these cannot make an encoder of this kind.
        """
        return self.model_copy(update={"num_hidden_layers": len(layers)})

    def keep_layers(self, params: dict[str, Any], layers: Sequence[int]) -> tuple["EncoderConfig", dict[str, Any]]:
        """The same as `with_layers`, with its parameters.

        Raises:
          UserError: if there are no layers to choose from, or not that many, or these cannot make an encoder.
        """
        if not self.depth:
            raise UserError(f"student.keep_layers: an encoder of kind '{self.kind}' has no layers. Leave it out.")
        if any(not 0 <= layer < self.depth for layer in layers) or not layers:
            raise UserError(
                f"student.keep_layers: is {list(layers)}, but the model has {self.depth} layers. "
                f"Give at least one number from 0 to {self.depth - 1}."
            )
        kept = {str(i): params["layers"][str(layer)] for i, layer in enumerate(layers)}
        return self.with_layers(layers), {**params, "layers": kept}
