"""Sums over all candidates of a batch, a block of them at a time, so that no score matrix is ever held.

A loss says how rows are scored against a block of candidates (a *tile*); the functions here reduce the tiles of all
blocks to one value per row, and in the same pass, where asked, to one per candidate. Their derivative is written by
hand: it computes each tile again and pulls the cotangent back through it, so memory is a few tiles, forward and
backward. Masks, hardness, learned temperatures and teacher scores are the tile's own business; whatever it computes is
differentiated.

Where candidates are spread over devices, a Sweep brings the devices' shares to each other; here nothing knows how.
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
from jdistill.types import Merge, Sweep, Visit

Tile = Callable[[PyTree[Array], PyTree[Array], PyTree[Array]], Float[Array, "*r b k"]]
"""`(rows, candidates of one block, shared) -> scores [b, k]`, or several such matrices on leading axes.

`rows` are arrays whose first axis is `b`, `candidates` arrays whose first axis is `k`; `shared` is any values.
A tile closes over no traced array.
"""

PairTile = Callable[[PyTree[Array], PyTree[Array], PyTree[Array]], tuple[Any, Any]]
"""A tile that gives two scores of each pair: for the sum over candidates, and for the sum over rows."""

ROWS = 4096
"""Rows scored at a time. With 512 candidates a tile is then 8 MB."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Here:
    """The Sweep of one device: it holds all candidates."""

    def __call__(self, visit: Visit, share: Any, staying: Any, nothing: Any, *, merge: Merge) -> tuple[Any, Any]:
        """See Sweep."""
        return visit(share, staying)

    def mean(self, share: Float[Array, "p d"]) -> Float[Array, " d"]:
        """See Sweep."""
        return share.mean(axis=0)


HERE = Here()


def logsumexp_over(
    tile: Tile,
    rows: PyTree[Array],
    candidates: PyTree[Array],
    shared: PyTree[Array],
    *,
    block: int,
    sweep: Sweep = HERE,
) -> Float[Array, "*r b"]:
    """`log sum_j exp(tile_ij)` over all candidates; -inf, with no gradient, where every score of a row is -inf.

    Args:
      tile: scores rows against a block of candidates.
      rows: what belongs to rows, leading axis `b`.
      candidates: what belongs to candidates, leading axis `m`: all of them, or this device's share.
      shared: what belongs to neither, such as a temperature.
      block: candidates scored at a time.
      sweep: brings the shares of all devices together.
    """
    return _reduce("logsumexp", _one(tile), block, sweep, *_aligned((rows, candidates, shared)))[0]  # pyright: ignore[reportIndexIssue]


def sum_over(
    tile: Tile,
    rows: PyTree[Array],
    candidates: PyTree[Array],
    shared: PyTree[Array],
    *,
    block: int,
    sweep: Sweep = HERE,
) -> Float[Array, "*r b"]:
    """`sum_j tile_ij` over all candidates; arguments as of `logsumexp_over`."""
    return _reduce("sum", _one(tile), block, sweep, *_aligned((rows, candidates, shared)))[0]  # pyright: ignore[reportIndexIssue]


def logsumexp_both(
    tile: PairTile,
    rows: PyTree[Array],
    candidates: PyTree[Array],
    shared: PyTree[Array],
    *,
    block: int,
    sweep: Sweep = HERE,
) -> tuple[Float[Array, "*r b"], Float[Array, "*r m"]]:
    """Log-sum-exps of a tile's two scores: of the first over all candidates, and of the second over all rows.

    One pass scores each pair once. Arguments as of `logsumexp_over`; the second result is of each of `candidates`.
    """
    return _reduce("logsumexp", tile, block, sweep, *_aligned((rows, candidates, shared)))


def over_rows(function: Callable[[PyTree[Array]], PyTree[Array]], rows: PyTree[Array], *, block: int) -> PyTree[Array]:
    """`function(rows)` of a function that looks at each row by itself, computed a block of rows at a time.

    The backward pass computes each block again, so that what lies between is never held for all rows.
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
      visit: `(carry, piece, which of the piece are real) -> (carry, arrays of as many)`. The last piece is filled up
        with copies of the last entry, so that it meets no values it could not stand; None says that all are real.
      carry: what the loop hands on.
      tree: arrays of one length.
      size: length of a piece.

    Returns:
      What is handed on at the end, and the arrays of all pieces joined.
    """
    (n,) = {x.shape[0] for x in jax.tree.leaves(tree)}
    if n <= size:
        return visit(carry, tree, None)
    count = -(-n // size)

    def cut(x: Array) -> Array:
        filler = jnp.broadcast_to(x[-1:], (count * size - n, *x.shape[1:]))
        return jnp.concatenate([x, filler]).reshape(count, size, *x.shape[1:])

    real = None if count * size == n else (jnp.arange(count * size) < n).reshape(count, size)
    # All pieces go through the one loop: beside it the compiler would compute a piece while the loop holds another.
    carry, out = lax.scan(lambda c, piece: visit(c, *piece), carry, (jax.tree.map(cut, tree), real))
    return carry, jax.tree.map(lambda x: x.reshape(count * size, *x.shape[2:])[:n], out)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _reduce(
    kind: Merge, tile: PairTile, block: int, sweep: Sweep, rows: Any, candidates: Any, shared: Any
) -> tuple[Any, Any]:
    return _forward(kind, tile, block, sweep, rows, candidates, shared)[0]


def _forward(
    kind: Merge, tile: PairTile, block: int, sweep: Sweep, rows: Any, candidates: Any, shared: Any
) -> tuple[Any, Any]:
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

    first, second = jax.eval_shape(tile, *(jax.tree.map(lambda x: x[:1], t) for t in (rows, candidates)), shared)
    totals, columns = _empty(sums, first, rows, zero), _empty(sums, second, candidates, zero)
    totals, columns = sweep(visit, candidates, totals, columns, merge=kind)
    results = tuple(None if x is None else sums.finish(x) for x in (totals, columns))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), results), (rows, candidates, shared, (totals, columns))


def _backward(kind: Merge, tile: PairTile, block: int, sweep: Sweep, kept: Any, cotangents: Any) -> tuple:
    rows, candidates, shared, (totals, columns) = kept
    of_totals, of_columns = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), cotangents)
    weights, zero = partial(_weights, KINDS[kind]), _zero((rows, candidates, shared))
    (row_values, (row_others, row_form)), (shared_values, shared_rest) = _split(rows), _split(shared)
    candidate_values, candidate_rest = _split(candidates)

    def visit(share: Any, staying: Any) -> tuple[Any, Any]:
        def of_block(staying: Any, part: Any, real: Array | None) -> tuple[Any, Any]:
            (part_values, part_rest), of_shared = _split(part[0]), staying[1]

            def of_rows(carry: Any, some: Any, real_rows: Array | None) -> tuple[Any, Any]:
                some_values, some_others, some_totals, some_cotangents, of_some = some

                def scores(r: Any, c: Any, s: Any) -> Any:
                    return tile(_join(r, (some_others, row_form)), _join(c, part_rest), _join(s, shared_rest))

                (a, b), back = jax.vjp(scores, some_values, part_values, shared_values)
                a = weights(a, some_totals, some_cotangents, -1, real_rows, real)
                b = weights(b, part[1], part[2], -2, real_rows, real)
                more, *of_others = back((a, b))
                return jax.tree.map(jnp.add, carry, tuple(of_others)), jax.tree.map(jnp.add, of_some, more)

            each = row_values, row_others, totals, of_totals, staying[0]
            (of_part, of_shared), of_all = in_pieces(of_rows, (_zeros(part_values, zero), of_shared), each, size=ROWS)
            return (of_all, of_shared), of_part

        return in_pieces(of_block, staying, share, size=block)

    staying, nothing = _zeros((row_values, shared_values), zero), _zeros(candidate_values, zero)
    share = candidates, columns, of_columns
    (of_rows, of_shared), of_candidates = sweep(visit, share, staying, nothing, merge="sum")
    return (
        _join(of_rows, (row_others, row_form), whole=False),
        _join(of_candidates, candidate_rest, whole=False),
        _join(of_shared, shared_rest, whole=False),
    )


_reduce.defvjp(_forward, _backward)


def _one(tile: Tile) -> PairTile:
    """The tile of one score as one whose second is missing."""
    return lambda rows, candidates, shared: (tile(rows, candidates, shared), None)


def _empty(sums: Kind, form: Any, along: PyTree[Array], zero: Array) -> Any:
    """Running totals of nothing, one for each entry of `along`; None where there is no such score."""
    return None if form is None else sums.empty((_length(along), *form.shape[:-2]), zero)


def _add(sums: Kind, totals: Any, scores: Array | None, axis: int, real: Array | None) -> Any:
    """The running totals with the scores of one tile added along `axis`, of which only some entries may be real."""
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
    """The cotangent of each score of a tile, from totals and cotangents along `axis`."""
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
    """Leaves that have derivatives; then the other leaves, with None in their places, and the structure."""
    leaves, structure = jax.tree.flatten(tree)
    smooth = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    values = [leaf for leaf, s in zip(leaves, smooth, strict=True) if s]
    return values, ([None if s else leaf for leaf, s in zip(leaves, smooth, strict=True)], structure)


def _join(values: list[Array], rest: tuple[list[Array | None], Any], *, whole: bool = True) -> Any:
    """What `_split` took apart; without the leaves that have no derivative if not `whole`."""
    others, structure = rest
    ordered = iter(values)
    return structure.unflatten([next(ordered) if x is None else (x if whole else None) for x in others])


def _aligned(trees: Any) -> Any:
    """The same values, all of one kind to a device: under shard_map a derivative written by hand may not return, for a
    value that is whole on every device, a cotangent that is each device's own. Adding each value's zero makes them so.
    """
    zero = _zero(trees)

    def mark(x: Array) -> Array:
        return x + jnp.asarray(zero, x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x

    return jax.tree.map(mark, trees)


def _zeros(like: Any, zero: Array) -> Any:
    """Zeros of these shapes, to a device of the same kind as `zero`: what a loop starts from."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + jnp.asarray(zero, x.dtype), like)


def _zero(trees: Any) -> Float[Array, ""]:
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.asarray(sum(lax.full_like(x, 0, dtype=jnp.float32, shape=()) for x in leaves))
