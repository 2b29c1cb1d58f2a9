"""Base class of encoders: a config that builds the NNX module and maps its weights to Hugging Face names."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import Config, UserError
from jdistill.student.attention import ChosenKernel
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.stack import Remat
from jdistill.student.weights import Weight

# Fields that most encoders have, named as in `config.json`; each encoder gives its own default.
VocabSize = Annotated[int, Field(ge=1, description="Vocabulary size.")]
HiddenSize = Annotated[int, Field(ge=1, description="Hidden size.")]
LayerCount = Annotated[int, Field(ge=1, description="Number of layers.")]
HeadCount = Annotated[int, Field(ge=1, description="Attention heads, of queries if keys and values have their own.")]
InnerSize = Annotated[int, Field(ge=1, description="Width of the feed-forward layer.")]
MaxLength = Annotated[int, Field(ge=1, description="Maximum input length in tokens.")]
TypeCount = Annotated[int, Field(ge=1, description="Rows of the token type table; single texts use the first.")]
Epsilon = Annotated[float, Field(gt=0, description="Epsilon of norms.")]


@dataclass(frozen=True)
class Computing:
    """How an encoder computes. Apart from dropout and rounding, this affects only speed and memory."""

    dtype: jnp.dtype
    """Dtype of matrix products and hidden states; norm statistics, softmax and parameters are float32."""
    dropout: float = 0.0
    """Dropout rate, applied if a key is given."""
    attention: ChosenKernel = "auto"
    """Attention implementation."""
    remat: Remat = "none"
    """What the backward pass recomputes."""
    scan: bool = False
    """Whether repeated layers run in `jax.lax.scan`."""


class EncoderConfig(Config):
    """An encoder architecture. A subclass adds `kind`, its sizes and the members below, in one file with its module."""

    model_types: ClassVar[tuple[str, ...]] = ()
    """`model_type` in the Hugging Face `config.json` of this architecture."""
    hf_prefix: ClassVar[str] = ""
    """Prefix of tensor names in checkpoints with a task head; optional when reading."""
    hf_ignored: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of tensor names that are ignored, such as the pooler."""
    special_tokens: ClassVar[bool] = True
    """Whether the tokenizer adds special tokens."""
    scaled_words: ClassVar[bool] = False
    """Whether word embeddings are multiplied by the square root of the hidden size."""
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {}
    """Name of a published model -> its sizes."""

    kind: str
    vocab_size: VocabSize
    hidden_size: HiddenSize
    # Not dumped: a resolved config states the sizes themselves.
    size: str | None = Field(default=None, exclude=True)
    """Name of a published model of this kind, such as `tiny` for `bert` or `ettin-17m` for `modernbert`; sets the
    defaults of depth, widths and heads."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, data: Any) -> Any:
        # Before validation, so that explicit sizes override those of the named model, which override the fields'
        # defaults.
        if not isinstance(data, Mapping) or data.get("size") is None:
            return data
        name, given = data["size"], {field: value for field, value in data.items() if field != "size"}
        if not cls.sizes:
            raise ValueError(f"size is {name!r}, but this kind has no named sizes. Set the sizes one by one.")
        if name not in cls.sizes:
            near = difflib.get_close_matches(str(name), cls.sizes, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise ValueError(f"size is {name!r}. {hint}Known: {', '.join(cls.sizes)}.")
        return {**cls.sizes[name], **given}

    @property
    def width(self) -> int:
        """Width of the token vectors."""
        return self.hidden_size

    @property
    def depth(self) -> int:
        """Number of layers; 0 if token vectors have no context."""
        raise NotImplementedError

    @property
    def max_positions(self) -> int | None:
        """Maximum input length in tokens; None: unlimited."""
        raise NotImplementedError

    @property
    def stored_positions(self) -> int | None:
        """Maximum length of the position embedding table; None if positions are computed, such as rotary ones."""
        stored = any(weight.path == "embeddings.positions" for weight in self.weights())
        return self.max_positions if stored else None

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "EncoderConfig":
        """The architecture of a Hugging Face `config.json`. Ignores dropout rates; set `student.dropout`.

        Raises:
          UserError: if the variant is not implemented.
        """
        raise NotImplementedError

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this architecture."""
        raise NotImplementedError

    def weights(self) -> list[Weight]:
        """The weight table: where a Hugging Face file has each parameter."""
        raise NotImplementedError

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> nnx.Module:
        """The module with random float32 parameters, to be called as `module(rows, layers=..., dropout_key=None)`.

        It returns one vector per position, `[r, p, d]`, after each of `layers`, counted as layers run; 0 is the
        embeddings. They equal transformers' `hidden_states`: a final norm is applied to the last layer's only.
        """
        raise NotImplementedError

    def masked_lm(self) -> MaskedLM | None:
        """The head that checkpoints for masked language modelling have, with its names; None: there are no such."""
        return None

    def with_layers(self, layers: Sequence[int]) -> "EncoderConfig":
        """The config of an encoder with only these layers, in this order.

        Raises:
          UserError: if these layers do not form an encoder of this kind.
        """
        return self.model_copy(update={"num_hidden_layers": len(layers)})

    def check_layers(self, layers: Sequence[int]) -> None:
        """Check that the encoder has these layers.

        Raises:
          UserError: if it has no layers at all, or not these.
        """
        if not self.depth:
            raise UserError(f"student.keep_layers: an encoder of kind '{self.kind}' has no layers. Leave it out.")
        if any(not 0 <= layer < self.depth for layer in layers) or not layers:
            raise UserError(
                f"student.keep_layers: is {list(layers)}, but the model has {self.depth} layers. "
                f"List at least one number from 0 to {self.depth - 1}."
            )

    def keep_layers(self, params: dict[str, Any], layers: Sequence[int]) -> tuple["EncoderConfig", dict[str, Any]]:
        """As `with_layers`, with the parameters.

        Raises:
          UserError: if the encoder has no layers, a layer does not exist, or the layers do not form an encoder.
        """
        self.check_layers(layers)
        # Layers are renumbered: a file has no gaps. A layer may be listed twice, and becomes two.
        kept = {str(i): params["layers"][str(layer)] for i, layer in enumerate(layers)}
        return self.with_layers(layers), {**params, "layers": kept}


class TransformerConfig(EncoderConfig):
    """An encoder with layers of attention."""

    num_hidden_layers: LayerCount
    num_attention_heads: HeadCount
    intermediate_size: InnerSize
    max_position_embeddings: MaxLength
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights."""

    @property
    @override
    def depth(self) -> int:
        return self.num_hidden_layers

    @property
    @override
    def max_positions(self) -> int | None:
        return self.max_position_embeddings


def model_size(*, layers: int, width: int, intermediate: int, heads: int) -> dict[str, int]:
    """The sizes of a published model, for `EncoderConfig.sizes`."""
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
    }
