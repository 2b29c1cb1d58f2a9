"""Sums over all candidates of a batch, a block of them at a time, so that no score matrix is ever held.

A loss says how one block of candidates is scored (a *tile*); the two functions here reduce the tiles of all blocks to
one value per row. Their derivative is written by hand: it computes each tile again and pulls the cotangent back through
it, so memory is rows times block, forward and backward. Masks, hardness, learned temperatures and teacher scores are
the tile's own business; whatever it computes is differentiated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, PyTree

Tile = Callable[[PyTree[Array], PyTree[Array], PyTree[Array]], Float[Array, "*r b k"]]
"""`(rows, candidates of one block, shared) -> scores [b, k]`, or several such matrices on leading axes.

`rows` are arrays whose first axis is `b`, `candidates` arrays whose first axis is `k`; `shared` is any values.
A tile closes over no traced array.
"""


def logsumexp_over(
    tile: Tile, rows: PyTree[Array], candidates: PyTree[Array], shared: PyTree[Array], *, block: int
) -> Float[Array, "*r b"]:
    """`log sum_j exp(tile_ij)` over all candidates; -inf, with no gradient, where every score of a row is -inf.

    Args:
      tile: scores rows against a block of candidates.
      rows: what belongs to rows, leading axis `b`.
      candidates: what belongs to candidates, leading axis `m`.
      shared: what belongs to neither, such as a temperature.
      block: candidates scored at a time.
    """
    return _reduce("logsumexp", tile, block, *_aligned((rows, candidates, shared)))


def sum_over(
    tile: Tile, rows: PyTree[Array], candidates: PyTree[Array], shared: PyTree[Array], *, block: int
) -> Float[Array, "*r b"]:
    """`sum_j tile_ij` over all candidates; arguments as of `logsumexp_over`."""
    return _reduce("sum", tile, block, *_aligned((rows, candidates, shared)))


def over_rows(function: Callable[[PyTree[Array]], PyTree[Array]], rows: PyTree[Array], *, block: int) -> PyTree[Array]:
    """`function(rows)` of a function that looks at each row by itself, computed a block of rows at a time.

    The backward pass computes each block again, so that what lies between is never held for all rows.
    """
    (n,) = {x.shape[0] for x in jax.tree.leaves(rows)}
    if n <= block:
        return function(rows)
    blocks = -(-n // block)

    def cut(x: Array) -> Array:
        filled = jnp.concatenate([x, jnp.broadcast_to(x[-1:], (blocks * block - n, *x.shape[1:]))])
        return filled.reshape(blocks, block, *x.shape[1:])

    done = lax.map(jax.checkpoint(function), jax.tree.map(cut, rows))
    return jax.tree.map(lambda x: x.reshape(blocks * block, *x.shape[2:])[:n], done)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _reduce(kind: str, tile: Tile, block: int, rows: Any, candidates: Any, shared: Any) -> Float[Array, "*r b"]:
    return _forward(kind, tile, block, rows, candidates, shared)[0]


def _forward(kind: str, tile: Tile, block: int, rows: Any, candidates: Any, shared: Any) -> tuple[Array, tuple]:
    def scored(piece: tuple[Any, Bool[Array, " k"]]) -> Array:
        part, real = piece
        return jnp.where(real, tile(rows, part, shared), -jnp.inf if kind == "logsumexp" else 0.0)

    def sums(piece: tuple[Any, Bool[Array, " k"]]) -> tuple[Array, Array]:
        """Largest score and sum of exponentials relative to it; for a plain sum the first is not used."""
        scores = scored(piece)
        if kind == "sum":
            return jnp.zeros_like(scores[..., 0]), scores.sum(axis=-1)
        largest = scores.max(axis=-1)
        return largest, jnp.exp(scores - _finite(largest)[..., None]).sum(axis=-1)

    def add(carry: tuple[Array, Array], piece: Any) -> tuple[tuple[Array, Array], None]:
        largest, total = sums(piece)
        if kind == "sum":
            return (largest, carry[1] + total), None
        new = jnp.maximum(carry[0], largest)
        old_share, new_share = (jnp.exp(x - _finite(new)) for x in (carry[0], largest))
        return (new, carry[1] * old_share + total * new_share), None

    pieces, several = _pieces(candidates, block)
    if several:
        largest, total = _zeros(jax.eval_shape(sums, jax.tree.map(lambda x: x[0], pieces)), (rows, candidates, shared))
        (largest, total), _ = lax.scan(add, (largest if kind == "sum" else largest - jnp.inf, total), pieces)
    else:
        largest, total = sums(pieces)
    if kind == "logsumexp":
        positive = total > 0
        total = jnp.where(positive, _finite(largest) + jnp.log(jnp.where(positive, total, 1.0)), -jnp.inf)
    return total, (rows, candidates, shared, total)


def _backward(kind: str, tile: Tile, block: int, kept: tuple, cotangent: Float[Array, "*r b"]) -> tuple:
    rows, candidates, shared, total = kept
    row_values, row_rest = _split(rows)
    shared_values, shared_rest = _split(shared)

    def pull(piece: tuple[Any, Bool[Array, " k"]]) -> tuple[Any, Any, Any]:
        """Cotangents of the rows, the block's candidates and the shared values."""
        part, real = piece
        part_values, part_rest = _split(part)

        def scores_of(r: Any, c: Any, s: Any) -> Array:
            return tile(_join(r, row_rest), _join(c, part_rest), _join(s, shared_rest))

        scores, back = jax.vjp(scores_of, row_values, part_values, shared_values)
        if kind == "sum":
            share = jnp.where(real, cotangent[..., None], 0.0)
        else:
            # A row whose every score is -inf has no softmax; minus infinity minus itself would be NaN.
            scores = jnp.where(real, scores, -jnp.inf)
            exponent = jnp.where(scores > -jnp.inf, scores - _finite(total)[..., None], -jnp.inf)
            share = jnp.exp(exponent) * cotangent[..., None]
        return back(jnp.broadcast_to(share, scores.shape))

    def add(carry: tuple[Any, Any], piece: Any) -> tuple[tuple[Any, Any], Any]:
        of_rows, of_part, of_shared = pull(piece)
        return jax.tree.map(jnp.add, carry, (of_rows, of_shared)), of_part

    pieces, several = _pieces(candidates, block)
    if several:
        nothing = _zeros((row_values, shared_values), (rows, candidates, shared))
        (of_rows, of_shared), stacked = lax.scan(add, nothing, pieces)
        m = jax.tree.leaves(candidates)[0].shape[0]
        of_candidates = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:m], stacked)
    else:
        of_rows, of_candidates, of_shared = pull(pieces)
    return (
        _join(of_rows, row_rest, whole=False),
        _join(of_candidates, _split(candidates)[1], whole=False),
        _join(of_shared, shared_rest, whole=False),
    )


_reduce.defvjp(_forward, _backward)


def _pieces(candidates: Any, block: int) -> tuple[tuple[Any, Array], bool]:
    """The blocks stacked, each with which of its candidates are real, and True; if there is but one, it and False.

    All blocks go through the one loop: beside it the compiler would compute a block while the loop holds another.
    The last block is filled up with copies of the last candidate, so that a tile never meets values it could not score.
    """
    m = jax.tree.leaves(candidates)[0].shape[0]
    if m <= block:
        return (candidates, jnp.ones(m, bool)), False
    blocks = -(-m // block)
    extra = blocks * block - m

    def cut(x: Array) -> Array:
        filled = jnp.concatenate([x, jnp.broadcast_to(x[-1:], (extra, *x.shape[1:]))]) if extra else x
        return filled.reshape(blocks, block, *x.shape[1:])

    return (jax.tree.map(cut, candidates), (jnp.arange(blocks * block) < m).reshape(blocks, block)), True


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0.0)


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


def _zeros(shapes: Any, trees: Any) -> Any:
    """Zeros of these shapes, to a device of the same kind as `trees`: what a loop over them starts from."""
    zero = _zero(trees)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + jnp.asarray(zero, x.dtype), shapes)


def _zero(trees: Any) -> Float[Array, ""]:
    leaves = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.asarray(sum(lax.full_like(x, 0, dtype=jnp.float32, shape=()) for x in leaves))
