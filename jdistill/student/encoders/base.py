"""What an encoder is: a configuration that can build the module and knows its weights by their Hugging Face names."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jdistill.config import Config, UserError
from jdistill.student.attention import ChosenKernel
from jdistill.student.weights import Weight
from jdistill.types import Tokens


class Module(Protocol):
    """What `make_module` returns, an `nnx.Module`."""

    def __call__(
        self, tokens: Tokens, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> list[Float[Array, "n l d"]]:
        """One vector per token after each of `layers`, counted as layers done; 0 is the embeddings."""
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

    def make_module(
        self, *, dtype: jnp.dtype, dropout: float, rngs: nnx.Rngs, attention: ChosenKernel = "auto"
    ) -> nnx.Module:
        """The module with random float32 parameters, computing in `dtype` and attending by that kernel."""
        raise NotImplementedError

    def keep_layers(self, params: dict[str, Any], layers: Sequence[int]) -> tuple["EncoderConfig", dict[str, Any]]:
        """The shallower encoder that consists of some of the layers, and its parameters.

        Raises:
          UserError: if there are no layers to choose from, or not that many.
        """
        raise UserError(f"student.keep_layers: an encoder of kind '{self.kind}' has no layers. Leave it out.")
