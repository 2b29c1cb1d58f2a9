"""Sums over all candidates of a batch, one block at a time, without storing a score matrix.

A loss defines how rows are scored against a block of candidates (a *tile*). The functions here reduce the tiles of all
blocks to one value per row and, on request, in the same pass to one per candidate. Their derivative is a custom VJP
that recomputes each tile and pulls the cotangent back through it, so the forward and the backward pass need memory for
a few tiles only. Masks, hardness, learned temperatures and teacher scores are computed inside the tile, and everything
in the tile is differentiated.

If the candidates are split over devices, a CandidateExchange pairs the rows of each device with the shares of the
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
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

from jdistill.losses.totals import KINDS, Kind
from jdistill.types import CandidateExchange, Merge, Visit

Tile = Callable[[PyTree[Array], PyTree[Array], PyTree[Array]], Float[Array, "*r b k"]]
"""`(rows, candidates of one block, shared) -> scores [b, k]`, or several such matrices on leading axes.

`rows` are arrays whose first axis is `b`, `candidates` arrays whose first axis is `k`; `shared` is any arrays.
A tile must not close over traced arrays, since the custom VJP would not differentiate those.
"""

PairTile = Callable[[PyTree[Array], PyTree[Array], PyTree[Array]], tuple[Any, Any]]
"""A tile with two scores per pair: the first is reduced over candidates, the second over rows."""

ROWS = 4096
"""Rows scored at a time. With 512 candidates a tile is then 8 MB."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class SingleDevice:
    """The CandidateExchange for a single device, which has all candidates."""

    def __call__(self, visit: Visit, share: Any, staying: Any, nothing: Any, *, merge: Merge) -> tuple[Any, Any]:
        """Visit all candidates at once."""
        return visit(share, staying)

    def mean(self, share: Float[Array, "p d"]) -> Float[Array, " d"]:
        """Mean over the candidates."""
        return share.mean(axis=0)


SINGLE_DEVICE = SingleDevice()


def logsumexp_over(
    tile: Tile,
    rows: PyTree[Array],
    candidates: PyTree[Array],
    shared: PyTree[Array],
    *,
    block: int,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, "*r b"]:
    """`log sum_j exp(tile_ij)` over all candidates; -inf, with no gradient, where every score of a row is -inf.

    Args:
      tile: scores rows against a block of candidates.
      rows: arrays with one entry per row, leading axis `b`.
      candidates: arrays with one entry per candidate, leading axis `m`: of all candidates, or of this device's share.
      shared: other arrays, such as a temperature.
      block: candidates scored at a time.
      sweep: pairs the rows with the candidates of all devices.
    """
    return _reduce("logsumexp", _one(tile), block, sweep, *_aligned((rows, candidates, shared)))[0]  # pyright: ignore[reportIndexIssue]


def sum_over(
    tile: Tile,
    rows: PyTree[Array],
    candidates: PyTree[Array],
    shared: PyTree[Array],
    *,
    block: int,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, "*r b"]:
    """`sum_j tile_ij` over all candidates; arguments as for `logsumexp_over`."""
    return _reduce("sum", _one(tile), block, sweep, *_aligned((rows, candidates, shared)))[0]  # pyright: ignore[reportIndexIssue]


def logsumexp_both(
    tile: PairTile,
    rows: PyTree[Array],
    candidates: PyTree[Array],
    shared: PyTree[Array],
    *,
    block: int,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> tuple[Float[Array, "*r b"], Float[Array, "*r m"]]:
    """Log-sum-exps of a tile's two scores: of the first over all candidates, of the second over all rows.

    Scores each pair once. Arguments as for `logsumexp_over`; the second result has one value per entry of `candidates`.
    """
    return _reduce("logsumexp", tile, block, sweep, *_aligned((rows, candidates, shared)))


def over_rows(function: Callable[[PyTree[Array]], PyTree[Array]], rows: PyTree[Array], *, block: int) -> PyTree[Array]:
    """`function(rows)` for a function that treats each row independently, computed one block of rows at a time.

    The backward pass recomputes each block, so intermediate values are never stored for all rows.
    """
    if _length(rows) <= block:
        return function(rows)
    return in_pieces(lambda _, part, real: ((), jax.checkpoint(function)(part)), (), rows, size=block)[1]


def in_pieces(
    visit: Callable[[Any, PyTree[Array], Bool[Array, " p"] | None], tuple[Any, PyTree[Array]]],
    carry: Any,
    tree: PyTree[Array],
    *,
    size: int,
) -> tuple[Any, PyTree[Array]]:
    """A loop over pieces of `size` along the first axis of every array.

    Args:
      visit: `(carry, piece, which entries are real) -> (carry, arrays of the same length)`. The last piece is padded
        with copies of the last entry, since zeros could give NaN in a tile; None means that all are real.
      carry: initial carry of the loop.
      tree: arrays of equal length.
      size: length of a piece.

    Returns:
      The final carry, and the arrays of all pieces concatenated, without padding.
    """
    (n,) = {x.shape[0] for x in jax.tree.leaves(tree)}
    if n <= size:
        return visit(carry, tree, None)
    count = -(-n // size)

    def cut(x: Array) -> Array:
        filler = jnp.broadcast_to(x[-1:], (count * size - n, *x.shape[1:]))
        return jnp.concatenate([x, filler]).reshape(count, size, *x.shape[1:])

    real = None if count * size == n else (jnp.arange(count * size) < n).reshape(count, size)
    # The last, padded piece goes through the loop too: if it were computed outside, XLA could schedule it alongside the
    # loop, and two pieces would be in memory at once.
    carry, out = lax.scan(lambda c, piece: visit(c, *piece), carry, (jax.tree.map(cut, tree), real))
    return carry, jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], out)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _reduce(
    kind: Merge, tile: PairTile, block: int, sweep: CandidateExchange, rows: Any, candidates: Any, shared: Any
) -> tuple[Any, Any]:
    return _forward(kind, tile, block, sweep, rows, candidates, shared)[0]


def _forward(
    kind: Merge, tile: PairTile, block: int, sweep: CandidateExchange, rows: Any, candidates: Any, shared: Any
) -> tuple[Any, Any]:
    """Result and residuals. Loop nest: devices' shares (in `sweep`), blocks of candidates, chunks of ROWS rows.

    Row totals are the carry of the loops over shares and blocks: they stay on this device. Column totals belong to the
    candidates: each block's are complete for this device's rows after the inner loop, and travel with the share.
    """
    sums, zero = KINDS[kind], _zero((rows, candidates, shared))

    def visit(share: Any, totals: Any) -> tuple[Any, Any]:
        def of_block(totals: Any, part: Any, real: Array | None) -> tuple[Any, Any]:
            def of_rows(columns: Any, some: Any, real_rows: Array | None) -> tuple[Any, Any]:
                some_rows, some_totals = some
                a, b = tile(some_rows, part, shared)
                return _add(sums, columns, b, -2, real_rows), _add(sums, some_totals, a, -1, real)

            columns = _empty(sums, second, part, zero)
            columns, totals = in_pieces(of_rows, columns, (rows, totals), size=ROWS)
            return totals, columns

        return in_pieces(of_block, totals, share, size=block)

    # Shapes of the tile's two scores, [*r, 1, 1], from one row and one candidate; the second is None for a plain tile.
    first, second = jax.eval_shape(tile, *(jax.tree.map(lambda x: x[:1], t) for t in (rows, candidates)), shared)
    totals, columns = _empty(sums, first, rows, zero), _empty(sums, second, candidates, zero)
    totals, columns = sweep(visit, candidates, totals, columns, merge=kind)
    results = tuple(None if x is None else sums.finish(x) for x in (totals, columns))
    # Residuals are the totals, not the results: a LogSum keeps the maximum and the sum relative to it apart, from which
    # the softmax is more precise than from their rounded logarithm.
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), results), (rows, candidates, shared, (totals, columns))


def _backward(kind: Merge, tile: PairTile, block: int, sweep: CandidateExchange, kept: Any, cotangents: Any) -> tuple:
    """Cotangents of rows, candidates and shared values; see the algebra in the module's docstring.

    `kept` is what `_forward` returned as residuals; `cotangents` are F and H, one number per row and per candidate. The
    loops are those of `_forward`. The cotangents of the rows and of the shared values are summed in the carry; those of
    a block of candidates are summed over the chunks of rows, then, in `sweep`, over the devices.
    """
    rows, candidates, shared, (totals, columns) = kept
    # Move the axis of rows, or of candidates, to the front, where the loops cut.
    of_totals, of_columns = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), cotangents)
    weights, zero = partial(_weights, KINDS[kind]), _zero((rows, candidates, shared))
    # Only floating-point leaves have cotangents; others, such as ids (`_others`, `_rest`), just go back into the tile.
    (row_values, (row_others, row_form)), (shared_values, shared_rest) = _split(rows), _split(shared)
    candidate_values, candidate_rest = _split(candidates)

    def visit(share: Any, staying: Any) -> tuple[Any, Any]:
        def of_block(staying: Any, part: Any, real: Array | None) -> tuple[Any, Any]:
            (part_values, part_rest), of_shared = _split(part[0]), staying[1]

            def of_rows(carry: Any, some: Any, real_rows: Array | None) -> tuple[Any, Any]:
                some_values, some_others, some_totals, some_cotangents, of_some = some

                def scores(r: Any, c: Any, s: Any) -> Any:
                    return tile(_join(r, (some_others, row_form)), _join(c, part_rest), _join(s, shared_rest))

                # Recompute the tile, turn its scores into their cotangents A and B, pull those back through the tile.
                (a, b), back = jax.vjp(scores, some_values, part_values, shared_values)
                a = weights(a, some_totals, some_cotangents, -1, real_rows, real)
                b = weights(b, part[1], part[2], -2, real_rows, real)
                more, *of_others = back((a, b))
                return jax.tree.map(jnp.add, carry, tuple(of_others)), jax.tree.map(jnp.add, of_some, more)

            # The rows' cotangents so far are cut into chunks along with the rows, and returned with this block's added.
            each = row_values, row_others, totals, of_totals, staying[0]
            (of_part, of_shared), of_all = in_pieces(of_rows, (_zeros(part_values, zero), of_shared), each, size=ROWS)
            return (of_all, of_shared), of_part

        return in_pieces(of_block, staying, share, size=block)

    staying, nothing = _zeros((row_values, shared_values), zero), _zeros(candidate_values, zero)
    # A share travels with its column totals and cotangents: every device that visits it needs them to form B.
    share = candidates, columns, of_columns
    (of_rows, of_shared), of_candidates = sweep(visit, share, staying, nothing, merge="sum")
    return (
        _join(of_rows, (row_others, row_form), whole=False),
        _join(of_candidates, candidate_rest, whole=False),
        _join(of_shared, shared_rest, whole=False),
    )


_reduce.defvjp(_forward, _backward)


def _one(tile: Tile) -> PairTile:
    """A Tile as a PairTile whose second score is None."""
    return lambda rows, candidates, shared: (tile(rows, candidates, shared), None)


def _empty(sums: Kind, form: Any, along: PyTree[Array], zero: Array) -> Any:
    """Initial running totals, one for each entry of `along`; None if the tile has no such score."""
    return None if form is None else sums.empty((_length(along), *form.shape[:-2]), zero)


def _add(sums: Kind, totals: Any, scores: Array | None, axis: int, real: Array | None) -> Any:
    """Add the scores of one tile, reduced along `axis`, to the running totals; `real` masks padding along that axis."""
    if scores is None:
        return totals
    if real is not None:
        scores = jnp.where(jnp.expand_dims(real, -3 - axis), scores, sums.absent)
    more = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), sums.total(scores, axis))
    return sums.merge(totals, more)


def _weights(
    sums: Kind,
    scores: Array | None,
    totals: Any,
    cotangents: Array | None,
    axis: int,
    real_rows: Array | None,
    real: Array | None,
) -> Array | None:
    """The cotangent of each score of a tile (A or B), from the totals and cotangents of its reduction along `axis`.

    Padded rows and candidates get 0: they are copies of real ones, and would count twice in the sums over tiles.
    """
    if scores is None or cotangents is None:
        return None
    total, cotangent = jax.tree.map(lambda x: jnp.expand_dims(jnp.moveaxis(x, 0, -1), axis), (totals, cotangents))
    weights = sums.weight(scores, total) * cotangent
    if real is not None:
        weights = jnp.where(real, weights, 0.0)
    return weights if real_rows is None else jnp.where(real_rows[:, None], weights, 0.0)


def _length(tree: PyTree[Array]) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _split(tree: Any) -> tuple[list[Array], tuple[list[Array | None], Any]]:
    """The floating-point leaves; then the other leaves, with None in place of those, and the tree structure."""
    leaves, structure = jax.tree.flatten(tree)
    smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    values = [leaf for leaf, s in zip(leaves, smooth, strict=True) if s]
    return values, ([None if s else leaf for leaf, s in zip(leaves, smooth, strict=True)], structure)


def _join(values: list[Array], rest: tuple[list[Array | None], Any], *, whole: bool = True) -> Any:
    """Inverse of `_split`. If not `whole`, leaves without derivative become None, which custom_vjp takes as zero."""
    others, structure = rest
    ordered = iter(values)
    return structure.unflatten([next(ordered) if x is None else (x if whole else None) for x in others])


def _aligned(trees: Any) -> Any:
    """The same values, all varying over the same mesh axes.

    Under shard_map a custom VJP may not return a device-varying cotangent for a replicated input, for example a
    temperature. Adding a zero that varies makes the input varying; the transpose of that addition then sums the
    cotangent over the devices, outside the custom VJP.
    """
    zero = _zero(trees)

    def mark(x: Array) -> Array:
        return x + jnp.asarray(zero, x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(mark, trees)


def _zeros(like: Any, zero: Array) -> Any:
    """Zeros of these shapes, varying over the mesh axes of `zero`, as the initial carry of a scan must."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + jnp.asarray(zero, x.dtype), like)


def _zero(trees: Any) -> Float[Array, ""]:
    """A scalar 0 that varies over every mesh axis over which any of the values varies."""
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.asarray(sum(lax.full_like(x, 0, dtype=jnp.float32, shape=()) for x in leaves))
