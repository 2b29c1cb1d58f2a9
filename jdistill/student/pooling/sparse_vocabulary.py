"""The sparse vocabulary head: a text is a weight for each token that occurs in it, as an inverted index stores it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.modules import linear_rows
from jdistill.student.packing import Rows
from jdistill.student.pooling.activation import Activation, activations
from jdistill.student.pooling.base import PoolingModule, PoolingParams
from jdistill.student.weights import Weight


class SparseVocabulary(PoolingModule):
    """The largest activation of each token of the vocabulary over its places in the text; 0 where it does not occur.

        out[v] = max over t with token_t = v of relu(h_t . w + c)

    A matching word counts as much as the context says it matters, and a text's vector has no more elements than the
    text has tokens. Tokens that occur twice are counted once, by their larger activation; where several places have
    the largest, its gradient is shared equally among them. Memory is `[n, vocabulary]`, never times the tokens.

    Source:
      The lexical head of Chen et al. 2024 (BGE-M3), arXiv:2402.03216, section 3.2; the sparse head of
      github.com/approximated-intelligence/embedding-distillation, with `bias: false` and `excluded: []`.
      Parity: torch's scatter_reduce with "amax", gradient included.
    """

    sparse: ClassVar[bool] = True
    module: ClassVar[str] = "SparseVocabularyPooling"

    kind: Literal["sparse_vocabulary"] = "sparse_vocabulary"
    bias: bool = True
    """Whether `c` is added. It starts at 1 and the weights at 0: training starts from the set of the text's tokens."""
    excluded: list[int] | None = None
    """Ids of tokens that never get a weight. Left out: the tokenizer's special tokens; `[]`: none."""

    def width(self, encoder: EncoderConfig) -> int:
        """The size of the vocabulary."""
        return encoder.vocab_size

    def init(self, encoder: EncoderConfig, key: Array) -> PoolingParams:
        """As `activation`."""
        return Activation(bias=self.bias).init(encoder, key)

    def weights(self) -> list[Weight]:
        """The linear layer."""
        return linear_rows("linear", "linear", bias=self.bias)

    def to_module(self, encoder: EncoderConfig) -> dict[str, Any]:
        """Widths, bias and what is excluded."""
        return {
            "token_width": encoder.width,
            "vocab_size": encoder.vocab_size,
            "bias": self.bias,
            "excluded": self.excluded or [],
        }

    @classmethod
    def from_module(cls, config: Mapping[str, Any]) -> "SparseVocabulary":
        """From bias and what is excluded."""
        return cls(bias=config["bias"], excluded=config["excluded"])

    def with_special_tokens(self, ids: Sequence[int]) -> "SparseVocabulary":
        """These are excluded, unless the configuration says which are."""
        return self if self.excluded is not None else self.model_copy(update={"excluded": sorted(ids)})

    def __call__(
        self,
        hidden: Float[Array, "r p d"],
        rows: Rows,
        params: PoolingParams,
        encoder: EncoderConfig,
        encoder_params: Mapping[str, Any],
    ) -> Float[Array, "n v"]:
        """As the class says."""
        counted = rows.held & ~jnp.isin(rows.ids, jnp.asarray(self.excluded or [], rows.ids.dtype))

        def largest(texts: Array, n: int, values: Array, ids: Array, counted: Array) -> Array:
            return largest_of_tokens(values, jnp.where(counted, texts, n), ids, n, encoder.vocab_size)

        return rows.reduced(largest, activations(hidden, params), rows.ids, counted)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def largest_of_tokens(
    values: Float[Array, " p"], texts: Int[Array, " p"], ids: Int[Array, " p"], n: int, size: int
) -> Float[Array, "n v"]:
    """Largest value of each token id over its places in each text; 0 where there is none.

    Its backward pass is written out because that of JAX's own scatter-max fills five arrays `[n, v]` instead of one.

    Args:
      values: of each place, >= 0, float32.
      texts: the text of each place, in [0, n), or n for a place to leave out.
      ids: the token of each place, in [0, size).
      n: texts.
      size: of the vocabulary.
    """
    return jnp.zeros((n, size), values.dtype).at[texts, ids].max(values, mode="drop")


def _forward(values: Array, texts: Array, ids: Array, n: int, size: int) -> tuple[Array, Any]:
    largest: Any = largest_of_tokens(values, texts, ids, n, size)
    return largest, (values == largest.at[texts, ids].get(mode="fill", fill_value=-1), texts, ids)


def _backward(n: int, size: int, kept: Any, gradient: Array) -> tuple[Array, None, None]:
    wins, texts, ids = kept
    equal = jnp.zeros((n, size), gradient.dtype).at[texts, ids].add(wins.astype(gradient.dtype), mode="drop")
    share = gradient.at[texts, ids].get(mode="fill", fill_value=0)
    share /= jnp.maximum(equal.at[texts, ids].get(mode="fill", fill_value=0), 1)
    return jnp.where(wins, share, 0), None, None


largest_of_tokens.defvjp(_forward, _backward)
