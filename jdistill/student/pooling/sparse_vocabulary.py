"""Sparse vocabulary pooling: a weight for each token that occurs in the text, as in an inverted index."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from typing_extensions import override

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.modules import linear_rows
from jdistill.student.packing import TokenRows
from jdistill.student.pooling.activation import Activation, activations
from jdistill.student.pooling.base import OWN_FILE, PoolingModule, PoolingParams
from jdistill.student.weights import Weight


class SparseVocabulary(PoolingModule):
    """The largest activation of each vocabulary token over its occurrences in the text; 0 if it does not occur.

        out[v] = max over t with token_t = v of relu(h_t . w + c)

    The weight of a matching word depends on its context, and a vector has at most as many non-zero elements as the
    text has tokens. If several occurrences share the maximum, its gradient is split equally among them. Memory is
    `[n, vocabulary]`, independent of the number of tokens.

    Source:
      The lexical head of Chen et al. 2024 (BGE-M3), arXiv:2402.03216, section 3.2; the sparse head of
      github.com/approximated-intelligence/embedding-distillation, with `bias: false` and `excluded: []`.
      Parity: torch's scatter_reduce with "amax", gradient included.
    """

    sparse: ClassVar[bool] = True
    module: ClassVar[str] = "SparseVocabularyPooling"
    module_file: ClassVar[Path | None] = OWN_FILE

    kind: Literal["sparse_vocabulary"] = "sparse_vocabulary"
    papers = ("arXiv:2107.05720", "arXiv:2402.03216")
    bias: bool = True
    """Whether to add `c`, initialised to 1 with `w` at 0, so that training starts from the set of the text's tokens."""
    excluded: list[int] | None = None
    """Ids of tokens whose weight is always 0. Default: the tokenizer's special tokens; `[]`: none."""

    def width(self, encoder: EncoderConfig) -> int:
        """The size of the vocabulary."""
        return encoder.vocab_size

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """As for `activation`."""
        return Activation(bias=self.bias).init(encoder, key)

    @override
    def weights(self) -> list[Weight]:
        return linear_rows("linear", "linear", bias=self.bias)

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """Widths, `bias` and `excluded`."""
        return {
            "token_width": encoder.width,
            "vocab_size": encoder.vocab_size,
            "bias": self.bias,
            "excluded": self.excluded or [],
        }

    @classmethod
    @override
    def from_module(cls, config: Mapping[str, Any]) -> "SparseVocabulary":
        return cls(bias=config["bias"], excluded=config["excluded"])

    def with_special_tokens(self, ids: Sequence[int]) -> "SparseVocabulary":
        """Excludes them, unless `excluded` is set."""
        return self if self.excluded is not None else self.model_copy(update={"excluded": sorted(ids)})

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: TokenRows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n v"]:
        """`[n, vocabulary]` weights."""
        counted = rows.held & ~jnp.isin(rows.ids, jnp.asarray(self.excluded or [], rows.ids.dtype))

        def largest(texts: Array, n: int, values: Array, ids: Array, counted: Array) -> Array:
            return largest_of_tokens(values, jnp.where(counted, texts, n), ids, n, encoder.vocab_size)

        return rows.reduced(largest, activations(hidden, params), rows.ids, counted)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def largest_of_tokens(
    values: Float[Array, " p"], texts: Int[Array, " p"], ids: Int[Array, " p"], n: int, size: int
) -> Float[Array, "n v"]:
    """Largest value of each token id over its positions in each text; 0 if it does not occur.

    Has a custom backward pass, because that of JAX's scatter-max allocates five arrays `[n, v]` instead of one.

    Args:
      values: value at each position, >= 0, float32.
      texts: index of the text at each position, in [0, n), or n to ignore the position.
      ids: token id at each position, in [0, size).
      n: number of texts.
      size: vocabulary size.
    """
    # Values are >= 0, so starting from zeros does not change a maximum.
    return jnp.zeros((n, size), values.dtype).at[texts, ids].max(values, mode="drop")


def _forward(values: Array, texts: Array, ids: Array, n: int, size: int) -> tuple[Array, Any]:
    largest: Any = largest_of_tokens(values, texts, ids, n, size)
    # Positions that attain their maximum; -1 equals no value, so ignored positions do not.
    return largest, (values == largest.at[texts, ids].get(mode="fill", fill_value=-1), texts, ids)


def _backward(n: int, size: int, kept: Any, gradient: Array) -> tuple[Array, None, None]:
    wins, texts, ids = kept
    # `equal` counts the positions that attain each maximum; they share its gradient equally.
    equal = jnp.zeros((n, size), gradient.dtype).at[texts, ids].add(wins.astype(gradient.dtype), mode="drop")
    share = gradient.at[texts, ids].get(mode="fill", fill_value=0)
    share /= jnp.maximum(equal.at[texts, ids].get(mode="fill", fill_value=0), 1)
    return jnp.where(wins, share, 0), None, None


largest_of_tokens.defvjp(_forward, _backward)
