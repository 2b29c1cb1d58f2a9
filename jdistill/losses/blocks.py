"""Sums over all candidates of a batch, one block at a time, without storing a score matrix.

A loss defines how rows are scored against a block of candidates (a *tile*). The functions here reduce the tiles of all
blocks to one value per row and, on request, in the same pass to one per candidate. Their derivative is a custom VJP
that recomputes each tile and pulls the cotangent back through it, so the forward and the backward pass need memory for
a few tiles only. Masks, hardness, learned temperatures and teacher scores are computed inside the tile, and everything
in the tile is differentiated.

If the candidates are split over devices, a CandidateExchange pairs the rows of each device with the candidates of the
others; nothing here depends on how.

The algebra. Let a_ij be a tile's score of row i and candidate j, and b_ij its second score, if it has one. The results
are f_i = log sum_j exp(a_ij) and h_j = log sum_i exp(b_ij), or the plain sums. With cotangents F_i and H_j of the
results, the cotangents of the scores are

    A_ij = F_i df_i/da_ij = F_i exp(a_ij - f_i),    B_ij = H_j dh_j/db_ij = H_j exp(b_ij - h_j)

(F_i and H_j for plain sums). They depend on the other scores only through f_i and h_j. So the residuals are the inputs
and the totals behind f and h, O(b + m) numbers, and the backward pass can treat the tiles independently: recompute a
and b, form A and B, and apply the tile's own VJP to get cotangents of rows, candidates and shared values, which are
summed over tiles. Storing the tiles instead would take O(b m) memory; and A needs the final f_i, so it cannot be formed
while the forward pass still runs.

From top to bottom: the tile and the public reductions; loops over pieces of arrays; the loop over all tiles, which both
passes share; the forward and the backward pass; what these do to the scores of one tile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jdistill.losses.totals import REDUCTIONS, Reduction, Totals
from jdistill.losses.trees import Tree, aligned, combine, length, partition, varying_zero, zeros_like
from jdistill.types import CandidateExchange, ExchangeFn, Merge

Tile = Callable[[Tree, Tree, Tree], Float[Array, "b k"]]
"""`(rows, candidates of one block, shared) -> scores [b, k]`.

`rows` are arrays whose first axis is `b`, `candidates` arrays whose first axis is `k`; `shared` is any arrays.
A tile must not close over traced arrays, since the custom VJP would not differentiate those.
"""

PairTile = Callable[[Tree, Tree, Tree], tuple[Float[Array, "b k"], Float[Array, "b k"] | None]]
"""A tile with two scores per pair: the first is reduced over candidates; the second, unless it is None, over rows."""

ROWS = 4096
"""Rows scored at a time. With 512 candidates a tile is then 8 MB."""


# Static, that is a pytree without leaves: a LossInputs passes through JAX's transformations with its exchange inside.
@jax.tree_util.register_static
@dataclass(frozen=True)
class SingleDevice:
    """The CandidateExchange for a single device, which has all candidates."""

    def __call__(self, fn: ExchangeFn, local: Any, carry: Any, init: Any, *, merge: Merge) -> tuple[Any, Any]:
        """Call `fn` once, with all candidates."""
        return fn(local, carry)

    def mean(self, local: Float[Array, "p d"]) -> Float[Array, " d"]:
        """Mean over the candidates."""
        return local.mean(axis=0)


SINGLE_DEVICE = SingleDevice()


def logsumexp_over(
    tile: Tile, rows: Tree, candidates: Tree, shared: Tree, *, block: int, sweep: CandidateExchange = SINGLE_DEVICE
) -> Float[Array, " b"]:
    """`log sum_j exp(tile_ij)` over all candidates; -inf, with no gradient, where every score of a row is -inf.

    Args:
      tile: scores rows against a block of candidates.
      rows: arrays with one entry per row, leading axis `b`.
      candidates: arrays with one entry per candidate, leading axis `m`: of all candidates, or of this device's.
      shared: other arrays, such as a temperature.
      block: candidates scored at a time.
      sweep: pairs the rows with the candidates of all devices.
    """
    return _reduce(Static("logsumexp", _one(tile), block, sweep), *aligned((rows, candidates, shared)))[0]  # pyright: ignore[reportIndexIssue]


def sum_over(
    tile: Tile, rows: Tree, candidates: Tree, shared: Tree, *, block: int, sweep: CandidateExchange = SINGLE_DEVICE
) -> Float[Array, " b"]:
    """`sum_j tile_ij` over all candidates; arguments as for `logsumexp_over`."""
    return _reduce(Static("sum", _one(tile), block, sweep), *aligned((rows, candidates, shared)))[0]  # pyright: ignore[reportIndexIssue]


def logsumexp_both(
    tile: PairTile, rows: Tree, candidates: Tree, shared: Tree, *, block: int, sweep: CandidateExchange = SINGLE_DEVICE
) -> tuple[Float[Array, " b"], Float[Array, " m"]]:
    """Log-sum-exps of a tile's two scores: of the first over all candidates, of the second over all rows.

    Scores each pair once. Arguments as for `logsumexp_over`; the second result has one value per entry of `candidates`.
    """
    return _reduce(Static("logsumexp", tile, block, sweep), *aligned((rows, candidates, shared)))


def over_rows(function: Callable[[Tree], Tree], rows: Tree, *, block: int) -> Tree:
    """`function(rows)` for a function that treats each row independently, computed one block of rows at a time.

    The backward pass recomputes each block, so intermediate values are never stored for all rows.
    """
    if length(rows) <= block:
        return function(rows)
    return in_pieces(lambda _, part, real: ((), jax.checkpoint(function)(part)), (), rows, size=block)[1]


def in_pieces(
    fn: Callable[[Any, Tree, Bool[Array, " p"] | None], tuple[Any, Tree]],
    carry: Any,
    tree: Tree,
    *,
    size: int,
) -> tuple[Any, Tree]:
    """A loop over pieces of `size` along the first axis of every array.

    Args:
      fn: `(carry, piece, which entries are real) -> (carry, arrays of the same length)`. The last piece is padded
        with copies of the last entry, since zeros could give NaN in a tile; None means that all are real.
      carry: initial carry of the loop.
      tree: arrays of equal length.
      size: length of a piece.

    Returns:
      The final carry, and the arrays of all pieces concatenated, without padding.
    """
    n = length(tree)
    if n <= size:
        return fn(carry, tree, None)
    count = -(-n // size)

    def cut(x: Array) -> Array:
        filler = jnp.broadcast_to(x[-1:], (count * size - n, *x.shape[1:]))
        return jnp.concatenate([x, filler]).reshape(count, size, *x.shape[1:])

    real = None if count * size == n else (jnp.arange(count * size) < n).reshape(count, size)
    # The last, padded piece goes through the loop too: if it were computed outside, XLA could schedule it alongside the
    # loop, and two pieces would be in memory at once.
    carry, out = lax.scan(lambda c, piece: fn(c, *piece), carry, (jax.tree.map(cut, tree), real))
    return carry, jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], out)


class Static(NamedTuple):
    """The arguments that are no arrays; hashable, as `nondiff_argnums` requires."""

    kind: Merge
    tile: PairTile
    block: int
    sweep: CandidateExchange


class Part(NamedTuple):
    """Some rows, or some candidates."""

    values: Tree
    real: Bool[Array, " p"] | None
    """False for the copies that fill up the last part; None: all are real."""


class Sums(NamedTuple):
    """What a pass adds up over tiles: forward the totals behind f and h, backward the cotangents of the inputs."""

    rows: Tree
    """One entry per row."""
    candidates: Tree
    """One entry per candidate."""
    shared: Tree = ()
    """Of all tiles together; nothing in the forward pass."""


def _over_tiles(
    add: Callable[[Part, Part, Sums], Sums],
    rows: Tree,
    candidates: Tree,
    sums: Sums,
    static: Static,
    *,
    start: Callable[[Tree], Tree],
    merge: Merge,
) -> Sums:
    """Loop over all tiles: devices' candidates (in `sweep`), blocks of candidates, chunks of ROWS rows.

    Sums over rows, and over all, are the carry of the outer loops: they stay on this device. Those of candidates belong
    to a block: they are complete, for this device's rows, after the inner loop, and then travel with the candidates.

    Args:
      add: `(rows, candidates, sums) -> sums`, with those of a tile added; of the rows' and the candidates' sums it gets
        only the entries of the tile.
      rows: arrays with one entry per row.
      candidates: arrays with one entry per candidate of this device.
      sums: initial sums.
      static: block and exchange.
      start: `candidates -> initial sums`, for a block of candidates.
      merge: how the sums of several devices for one candidate are combined.
    """

    def over_device(local: Tree, carry: Tree) -> tuple[Tree, Tree]:
        return in_pieces(over_block, carry, local, size=static.block)

    def over_block(carry: Tree, candidates: Tree, real: Bool[Array, " k"] | None) -> tuple[Tree, Tree]:
        row_sums, shared_sums = carry

        def over_chunk(carry: Tree, chunk: Tree, real_rows: Bool[Array, " r"] | None) -> tuple[Tree, Tree]:
            (some_rows, row_sums), (candidate_sums, shared_sums) = chunk, carry
            before = Sums(row_sums, candidate_sums, shared_sums)
            after = add(Part(some_rows, real_rows), Part(candidates, real), before)
            return (after.candidates, after.shared), after.rows

        # The rows' sums are cut into chunks along with the rows, and returned with this block's added.
        inner = start(candidates), shared_sums
        (candidate_sums, shared_sums), row_sums = in_pieces(over_chunk, inner, (rows, row_sums), size=ROWS)
        return (row_sums, shared_sums), candidate_sums

    outer = sums.rows, sums.shared
    outer, candidate_sums = static.sweep(over_device, candidates, outer, sums.candidates, merge=merge)
    return Sums(outer[0], candidate_sums, outer[1])


class Residuals(NamedTuple):
    """What the backward pass needs of the forward pass.

    Totals instead of results: a LogSum keeps the maximum and the sum relative to it apart, from which the softmax is
    more precise than from their rounded logarithm.
    """

    rows: Tree
    candidates: Tree
    shared: Tree
    row_totals: Totals
    """Behind f."""
    candidate_totals: Totals | None
    """Behind h; None without a second score."""


Results = tuple[Float[Array, " b"], Float[Array, " m"] | None]
"""f and h; in the backward pass their cotangents F and H."""


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _reduce(static: Static, rows: Tree, candidates: Tree, shared: Tree) -> Results:
    return _forward(static, rows, candidates, shared)[0]


def _forward(static: Static, rows: Tree, candidates: Tree, shared: Tree) -> tuple[Results, Residuals]:
    """The results, f and h, and what the backward pass needs."""
    reduction, zero = REDUCTIONS[static.kind], varying_zero((rows, candidates, shared))
    _, second = jax.eval_shape(static.tile, rows, candidates, shared)  # None for a plain tile

    def start(candidates: Tree) -> Totals | None:
        return None if second is None else reduction.empty(length(candidates), zero)

    def add(rows: Part, candidates: Part, totals: Sums) -> Sums:
        a, b = static.tile(rows.values, candidates.values, shared)
        # a is reduced over the tile's candidates, b over its rows.
        row_totals = _add_scores(reduction, totals.rows, a, 1, candidates.real)
        return Sums(row_totals, None if b is None else _add_scores(reduction, totals.candidates, b, 0, rows.real))

    empty = Sums(reduction.empty(length(rows), zero), start(candidates))
    totals = _over_tiles(add, rows, candidates, empty, static, start=start, merge=static.kind)
    f = reduction.finish(totals.rows)
    h = None if second is None else reduction.finish(totals.candidates)
    return (f, h), Residuals(rows, candidates, shared, totals.rows, totals.candidates)


def _backward(static: Static, residuals: Residuals, cotangents: Results) -> tuple[Tree, Tree, Tree]:
    """Cotangents of rows, candidates and shared values; see the algebra in the module's docstring."""
    rows, candidates, shared, row_totals, candidate_totals = residuals
    of_f, of_h = cotangents  # F and H
    reduction, zero = REDUCTIONS[static.kind], varying_zero((rows, candidates, shared))
    # Only floating-point leaves have cotangents; others, such as ids, just go back into the tile.
    shared_floats, shared_others = partition(shared)

    def start(texts: Tree) -> Tree:
        return zeros_like(partition(texts)[0], zero)

    def add(some_rows: Part, some_candidates: Part, sums: Sums) -> Sums:
        rows, row_totals, of_f = some_rows.values
        candidates, candidate_totals, of_h = some_candidates.values
        (row_floats, row_others), (candidate_floats, candidate_others) = partition(rows), partition(candidates)

        def scores(rows: Tree, candidates: Tree, shared: Tree) -> tuple[Array, Array | None]:
            candidates = combine(candidates, candidate_others)
            return static.tile(combine(rows, row_others), candidates, combine(shared, shared_others))

        # 1. Recompute the tile's scores, a and b.
        (a, b), pull_back = jax.vjp(scores, row_floats, candidate_floats, shared_floats)
        # 2. Their cotangents, A and B, from the final totals.
        real = some_rows.real, some_candidates.real
        of_a = _score_cotangents(reduction, a, row_totals, of_f, 1, *real)
        of_b = None if b is None else _score_cotangents(reduction, b, candidate_totals, of_h, 0, *real)
        # 3. Pull these back to rows, candidates and shared values, and add them to those of earlier tiles.
        return jax.tree.map(jnp.add, sums, Sums(*pull_back((of_a, of_b))))

    # Candidates travel with their totals and H: every device that visits them needs these to form B.
    row_side, candidate_side = (rows, row_totals, of_f), (candidates, candidate_totals, of_h)
    empty = Sums(start(rows), start(candidates), start(shared))
    of_rows, of_candidates, of_shared = _over_tiles(
        add, row_side, candidate_side, empty, static, start=lambda side: start(side[0]), merge="sum"
    )
    return of_rows, of_candidates, of_shared


_reduce.defvjp(_forward, _backward)


def _one(tile: Tile) -> PairTile:
    """A Tile as a PairTile without a second score."""
    return lambda rows, candidates, shared: (tile(rows, candidates, shared), None)


def _add_scores(
    reduction: Reduction, totals: Totals, scores: Float[Array, "b k"], axis: int, real: Bool[Array, " _"] | None
) -> Totals:
    """Add the scores of one tile, reduced along `axis`, to the running totals; `real` masks padding along that axis."""
    if real is not None:
        scores = jnp.where(jnp.expand_dims(real, 1 - axis), scores, reduction.absent)
    return reduction.merge(totals, reduction.total(scores, axis))


def _score_cotangents(
    reduction: Reduction,
    scores: Float[Array, "b k"],
    totals: Totals,
    cotangents: Float[Array, " _"],
    axis: int,
    real_rows: Bool[Array, " b"] | None,
    real_candidates: Bool[Array, " k"] | None,
) -> Float[Array, "b k"]:
    """The cotangents of a tile's scores (A or B), from the totals and cotangents of their reduction along `axis`.

    Padded rows and candidates get 0: they are copies of real ones, and would count twice in the sums over tiles.
    """
    total, cotangent = jax.tree.map(lambda x: jnp.expand_dims(x, axis), (totals, cotangents))
    weights = reduction.weight(scores, total) * cotangent
    if real_candidates is not None:
        weights = jnp.where(real_candidates[None], weights, 0.0)
    return weights if real_rows is None else jnp.where(real_rows[:, None], weights, 0.0)
