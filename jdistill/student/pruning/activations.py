"""Statistics of an encoder's activations on a sample of texts, on which pruning decisions are based.

Observed modules are temporarily wrapped; the encoder computes as usual, in float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jdistill.progress import counted
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.modules import LayerNorm, Linear, RMSNorm
from jdistill.student.packing import rows_of
from jdistill.types import Tokens

SAMPLE_TOKENS = 16_384
"""Size of the sample: about ten tokens per dimension of a feed-forward layer of 1,536."""

LONGEST = 128
"""Texts of the sample are truncated to this many tokens."""

_BATCH_TOKENS = 4096
"""Tokens per batch, padding included."""

Through = dict[str, tuple[Array, Array]]
"""Name of a module -> its input and output, `[n, l, w]` each."""


class Moments(NamedTuple):
    """Sums over the tokens of a sample, float64."""

    count: float
    """Number of tokens."""
    total: Float[np.ndarray, " w"]
    """Sum of the vectors."""
    products: Float[np.ndarray, "w w"]
    """Sum of their outer products."""

    @property
    def second(self) -> Float[np.ndarray, "w w"]:
        """Mean of the outer products."""
        return self.products / self.count

    @property
    def mean(self) -> Float[np.ndarray, " w"]:
        """Mean of the vectors, `[w]`."""
        return self.total / self.count

    @property
    def covariance(self) -> Float[np.ndarray, "w w"]:
        """Covariance of the vectors, `[w, w]`; divided by the count, not by one less."""
        return self.second - np.outer(self.mean, self.mean)


class _Recorder(nnx.Module):
    """A module that passes its input and output to a listener."""

    def __init__(self, module: Any, name: str, listener: Callable[[str, Array, Array], None]) -> None:
        self.module, self.name, self.listener = module, name, listener

    def __call__(self, x: Array, *how: Any) -> Array:
        y = self.module(x, *how)
        self.listener(self.name, x, y)
        return y


class Sample:
    """An encoder and a sample of texts to run it on.

    Args:
      encoder: the architecture.
      params: its parameters.
      ids: the tokens of each text; truncated to LONGEST each, and SAMPLE_TOKENS in total.
      pad_id: padding id of the tokenizer.
    """

    def __init__(
        self, encoder: EncoderConfig, params: Mapping[str, Any], ids: Sequence[Sequence[int]], *, pad_id: int
    ) -> None:
        computing = Computing(jnp.dtype("float32"), scan=False)
        # Only the graph is needed, so no random parameters are computed.
        module = nnx.eval_shape(lambda: encoder.make_module(computing, rngs=nnx.Rngs(0)))
        self._graph, self._params, self._depth = nnx.split(module)[0], params, encoder.depth
        self._ids, self._pad_id = _some(ids, SAMPLE_TOKENS), pad_id

    def norms(self) -> dict[str, LayerNorm | RMSNorm]:
        """The norms of the residual stream, by path; not those of queries and keys."""
        return {name: m for name, m in self._modules() if isinstance(m, LayerNorm | RMSNorm) and not _of_heads(name)}

    def moments(self, names: Sequence[str]) -> dict[str, Moments]:
        """Moments of the inputs of these linear layers, and as `hidden` of the encoder's output."""

        def summed(through: Through, hidden: Array, held: Bool[Array, "n l"]) -> dict[str, Any]:
            inputs = {name: x for name, (x, _) in through.items()} | {"hidden": hidden}
            return {name: _sums(x, held) for name, x in inputs.items()}

        sums = self._summed(names, summed)
        return {name: Moments(float(sums[name][0]), sums[name][1], sums[name][2]) for name in [*names, "hidden"]}

    def along(self, names: Sequence[str], of: Callable[[str, Array, Array], Any]) -> dict[str, Any]:
        """Sums over tokens of `of(name, input, output)` for each module; input and output are `[positions, w]`."""

        def summed(through: Through, hidden: Array, held: Bool[Array, "n l"]) -> dict[str, Any]:
            real = held.reshape(-1, 1)
            values = {name: of(name, *(z.reshape(-1, z.shape[-1]) for z in pair)) for name, pair in through.items()}
            # `where`, not a product, which would turn infinity at padding into NaN.
            return {"count": real.sum(), **jax.tree.map(lambda x: jnp.where(real, x, 0.0).sum(0), values)}

        return self._summed(names, summed)

    def _modules(self) -> Iterator[tuple[str, Any]]:
        encoder = nnx.merge(self._graph, self._params)
        for path, module in nnx.iter_modules(encoder):
            yield ".".join(str(part) for part in path), module

    def _summed(self, names: Sequence[str], summed: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        @jax.jit
        def of_batch(params: Any, tokens: Tokens) -> dict[str, Any]:
            through: Through = {}
            encoder = nnx.merge(self._graph, params)
            for name in names:
                # Runs while JAX traces: `through` then holds traced arrays, of this call alone.
                _wrap(encoder, name, lambda heard, x, y: through.__setitem__(heard, (x, y)))
            rows = rows_of(tokens)
            return summed(through, encoder(rows, layers=(self._depth,))[self._depth], rows.held)

        total: Any = None
        # Accelerators round float32 products to bfloat16 or TF32, too coarse for covariances that are inverted later.
        with jax.default_matmul_precision("highest"):
            batches = _batches(self._ids, self._pad_id)
            for tokens in counted(batches, "read a sample", unit="batches"):
                # Added up on the host in float64, which JAX does not compute by default.
                part = jax.tree.map(lambda x: np.asarray(x, np.float64), of_batch(self._params, tokens))
                total = part if total is None else jax.tree.map(np.add, total, part)
        return total


def _of_heads(name: str) -> bool:
    return name.endswith((".query_norm", ".key_norm"))


def _wrap(encoder: Any, name: str, listener: Callable[[str, Array, Array], None]) -> None:
    *parents, last = name.split(".")
    level = encoder
    for parent in parents:
        level = level[parent] if isinstance(level, nnx.Dict) else getattr(level, parent)
    module = getattr(level, last)
    assert isinstance(module, Linear | LayerNorm | RMSNorm), name
    setattr(level, last, _Recorder(module, name, listener))


def _sums(x: Float[Array, "n l w"], held: Bool[Array, "n l"]) -> tuple[Array, Array, Array]:
    flat = jnp.where(held[:, :, None], x, 0.0).reshape(-1, x.shape[-1])
    return held.sum().astype(jnp.float32), flat.sum(0), flat.T @ flat


def _some(ids: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The first non-empty texts that have this many tokens in total; at least one text."""
    full = [list(row[:LONGEST]) for row in ids if row]
    ends = np.cumsum([len(row) for row in full])
    # Including the text at which the sum reaches `tokens`.
    return full[: max(1, int(np.searchsorted(ends, tokens)) + 1)]


def _batches(ids: list[list[int]], pad_id: int) -> Iterator[Tokens]:
    """Batches by length, padded to 16, 32, 64 or 128 tokens, so that at most four programs are compiled."""
    by_length: dict[int, list[list[int]]] = {}
    for row in ids:
        by_length.setdefault(max(16, 1 << (len(row) - 1).bit_length()), []).append(row)
    for length, rows in sorted(by_length.items()):
        # Always as many rows, the last ones empty, so that each length is compiled once.
        size = _BATCH_TOKENS // length
        for start in range(0, len(rows), size):
            table, lengths = np.full((size, length), pad_id, np.int32), np.zeros((size, 1), np.int64)
            for i, row in enumerate(rows[start : start + size]):
                table[i, : len(row)], lengths[i] = row, len(row)
            yield Tokens(jnp.asarray(table), jnp.asarray(np.arange(length) < lengths))
