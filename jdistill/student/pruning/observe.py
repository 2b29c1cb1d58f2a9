"""What goes through an encoder's modules when it reads a sample of texts: second moments, from which parts are chosen.

The modules that are asked about are wrapped for this purpose alone; the encoder computes as ever, in float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float
from tqdm import tqdm

from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.modules import LayerNorm, Linear, RMSNorm
from jdistill.student.packing import rows_of
from jdistill.types import Tokens

SAMPLE_TOKENS = 16_384
"""So many tokens are looked at: some ten for each dimension of a feed-forward part of 1,536."""

LONGEST = 128
"""Tokens after which texts of the sample are cut."""

_BATCH_TOKENS = 4096
"""Padded tokens that are looked at at once."""

Through = dict[str, tuple[Array, Array]]
"""Name of a module -> what went in and what came out, `[n, l, w]` each."""


class Moments(NamedTuple):
    """Sums over the tokens of a sample, float64."""

    count: float
    """Tokens."""
    total: Float[np.ndarray, " w"]
    """Of the vectors."""
    products: Float[np.ndarray, "w w"]
    """Of their outer products."""

    @property
    def second(self) -> Float[np.ndarray, "w w"]:
        """Mean of the outer products."""
        return self.products / self.count

    @property
    def mean(self) -> Float[np.ndarray, " w"]:
        """Of the vectors."""
        return self.total / self.count

    @property
    def covariance(self) -> Float[np.ndarray, "w w"]:
        """About the mean."""
        return self.second - np.outer(self.mean, self.mean)


class _Heard(nnx.Module):
    """A module that tells a listener what goes in and what comes out."""

    def __init__(self, module: Any, name: str, listener: Callable[[str, Array, Array], None]) -> None:
        self.module, self.name, self.listener = module, name, listener

    def __call__(self, x: Array, *how: Any) -> Array:
        y = self.module(x, *how)
        self.listener(self.name, x, y)
        return y


class Sample:
    """An encoder that reads some texts, as often as it is asked to.

    Args:
      encoder: the architecture.
      params: its parameters.
      ids: the tokens of each text, cut at LONGEST; read up to SAMPLE_TOKENS of them.
      pad_id: of the tokenizer.
    """

    def __init__(
        self, encoder: EncoderConfig, params: Mapping[str, Any], ids: Sequence[Sequence[int]], *, pad_id: int
    ) -> None:
        computing = Computing(jnp.dtype("float32"), scan=False)
        module = nnx.eval_shape(lambda: encoder.make_module(computing, rngs=nnx.Rngs(0)))
        self._graph, self._params, self._depth = nnx.split(module)[0], params, encoder.depth
        self._ids, self._pad_id = _some(ids, SAMPLE_TOKENS), pad_id

    def norms(self) -> dict[str, LayerNorm | RMSNorm]:
        """The norms of the vectors that go from layer to layer, by their place among the parameters."""
        return {name: m for name, m in self._modules() if isinstance(m, LayerNorm | RMSNorm) and not _of_heads(name)}

    def moments(self, names: Sequence[str]) -> dict[str, Moments]:
        """Of what goes into the linear layers of these names, and as `hidden` of what the encoder gives."""

        def summed(through: Through, hidden: Array, held: Bool[Array, "n l"]) -> dict[str, Any]:
            inputs = {name: x for name, (x, _) in through.items()} | {"hidden": hidden}
            return {name: _sums(x, held) for name, x in inputs.items()}

        sums = self._summed(names, summed)
        return {name: Moments(float(sums[name][0]), sums[name][1], sums[name][2]) for name in [*names, "hidden"]}

    def along(self, names: Sequence[str], of: Callable[[str, Array, Array], Any]) -> dict[str, Any]:
        """Sums over tokens of what `of` makes of a module's name, input and output, `[places, w]` each."""

        def summed(through: Through, hidden: Array, held: Bool[Array, "n l"]) -> dict[str, Any]:
            real = held.reshape(-1, 1)
            values = {name: of(name, *(z.reshape(-1, z.shape[-1]) for z in pair)) for name, pair in through.items()}
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
                _wrap(encoder, name, lambda heard, x, y: through.__setitem__(heard, (x, y)))
            rows = rows_of(tokens)
            return summed(through, encoder(rows, layers=(self._depth,))[self._depth], rows.held)

        total: Any = None
        with jax.default_matmul_precision("highest"):
            batches = _batches(self._ids, self._pad_id)
            for tokens in tqdm(batches, desc="read a sample", unit=" batches", disable=None, leave=False):
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
    setattr(level, last, _Heard(module, name, listener))


def _sums(x: Float[Array, "n l w"], held: Bool[Array, "n l"]) -> tuple[Array, Array, Array]:
    flat = jnp.where(held[:, :, None], x, 0.0).reshape(-1, x.shape[-1])
    return held.sum().astype(jnp.float32), flat.sum(0), flat.T @ flat


def _some(ids: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The first of them that have so many tokens together, at least one; those without any left out."""
    full = [list(row[:LONGEST]) for row in ids if row]
    ends = np.cumsum([len(row) for row in full])
    return full[: max(1, int(np.searchsorted(ends, tokens)) + 1)]


def _batches(ids: list[list[int]], pad_id: int) -> Iterator[Tokens]:
    """By length, padded to 16, 32, 64 or 128 tokens, so that four programs are compiled at most."""
    by_length: dict[int, list[list[int]]] = {}
    for row in ids:
        by_length.setdefault(max(16, 1 << (len(row) - 1).bit_length()), []).append(row)
    for length, rows in sorted(by_length.items()):
        size = _BATCH_TOKENS // length
        for start in range(0, len(rows), size):
            table, lengths = np.full((size, length), pad_id, np.int32), np.zeros((size, 1), np.int64)
            for i, row in enumerate(rows[start : start + size]):
                table[i, : len(row)], lengths[i] = row, len(row)
            yield Tokens(jnp.asarray(table), jnp.asarray(np.arange(length) < lengths))
