"""What an encoder is: a configuration that can build the module and knows its weights by their Hugging Face names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jdistill.config import Config, UserError
from jdistill.student.attention import ChosenKernel
from jdistill.student.packing import Rows
from jdistill.student.stack import Remat
from jdistill.student.weights import Weight


@dataclass(frozen=True)
class Computing:
    """How an encoder computes what configuration and weights say. Dropout aside, only speed and memory depend on it."""

    dtype: jnp.dtype
    """Of hidden states; statistics, softmax and parameters are float32."""
    dropout: float = 0.0
    """Rate, where a key is given."""
    attention: ChosenKernel = "auto"
    """By which kernel."""
    remat: Remat = "none"
    """What the backward pass computes again."""
    scan: bool | None = None
    """Whether repeating layers are scanned; None decides by depth."""


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

    kind: str

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

    def keep_layers(self, params: dict[str, Any], layers: Sequence[int]) -> tuple["EncoderConfig", dict[str, Any]]:
        """The shallower encoder that consists of some of the layers, and its parameters.

        Raises:
          UserError: if there are no layers to choose from, or not that many.
        """
        raise UserError(f"student.keep_layers: an encoder of kind '{self.kind}' has no layers. Leave it out.")
