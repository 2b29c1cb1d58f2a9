"""Padded and packed rows of tokens, and reductions of token values to one value per text.

Texts arrive padded, one per row of `Tokens`. Without packing an encoder runs on these rows. With packing, several texts
are concatenated in a row, which leaves little padding: attention stays within a text and positions count from its
start, so a token's vector is the same as in padded rows. Reductions, such as the mean of a text's tokens, are then
segment sums; packed texts are never unpacked.
"""

from collections.abc import Callable
from copy import copy

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped
from typing_extensions import override

from jdistill.types import Tokens

Reduce = Callable[..., Array]
"""`(texts [places], n, *values [places]) -> [n, ...]`; `texts` are indices in [0, n), or n for places to ignore."""


class TokenRows:
    """`r` rows of `p` places with the tokens of `n` texts. A place is a slot of a row: a token or padding."""

    ids: Int[Array, "r p"]
    """Token ids; arbitrary at padding."""
    positions: Int[Array, "_ p"]
    """Position of each place within its text, counting padding on the left; one row if all rows are equal."""
    places: Bool[Array, "r p"] | Int[Array, "r p"]
    """Mask of tokens, or index of each place's text, as the argument `places` of `attention`."""
    held: Bool[Array, "r p"]
    """Mask of tokens."""

    @property
    def texts(self) -> Int[Array, "r p"]:
        """Index of each token's text, in [0, n)."""
        raise NotImplementedError

    @property
    def ordinals(self) -> Int[Array, "r p"]:
        """Index of each token among the tokens of its text, from 0."""
        raise NotImplementedError

    @property
    def counts(self) -> Int[Array, " n"]:
        """Number of tokens of each text."""
        raise NotImplementedError

    def total(self, values: Float[Array, "r p *d"]) -> Float[Array, "n *d"]:
        """Sum over the tokens of each text."""
        raise NotImplementedError

    def foremost(self, values: Float[Array, "r p *d"]) -> Int[Array, "n *d"]:
        """The argmax over the tokens of each text, as an element of `numbers`; ties go to the first token.

        Computed by carrying indices along with values, not by comparing values with their maximum: XLA may recompute a
        value in each fused loop that reads it and round it differently, so that none would be equal. Arbitrary for
        texts without tokens.
        """
        raise NotImplementedError

    def largest(self, values: Float[Array, "r p *d"]) -> Float[Array, "n *d"]:
        """Maximum over the tokens of each text; minus infinity without tokens. The gradient goes to `foremost`."""
        # The sum has one term other than 0, the maximum. `stop_gradient` keeps autodiff out of the search for it.
        found = self.total(jnp.where(self.chosen(self.foremost(jax.lax.stop_gradient(values))), values, 0.0))
        return jnp.where(_like(self.counts > 0, found), found, -jnp.inf)

    def chosen(self, numbers: Int[Array, "n *d"]) -> Bool[Array, "r p *d"]:
        """Mask of the places whose number equals their text's."""
        spread = self.spread(numbers)
        return spread == _like(self.numbers, spread)

    @property
    def numbers(self) -> Int[Array, "_ p"]:
        """A number for each place, unique within its text."""
        raise NotImplementedError

    def spread(self, values: Shaped[Array, "n *d"]) -> Shaped[Array, "r p *d"]:
        """Broadcast each text's value to its places; arbitrary at padding."""
        raise NotImplementedError

    def reduced(self, reduce: Reduce, *values: Shaped[Array, "r p"]) -> Float[Array, "n *d"]:
        """Apply any other reduction over the tokens of each text."""
        raise NotImplementedError

    def first(self, values: Float[Array, "r p d"]) -> Float[Array, "n d"]:
        """The value of each text's first token; arbitrary without tokens."""
        raise NotImplementedError

    def behind(self, prompts: Int[Array, " n"]) -> "TokenRows":
        """The same rows with the first `prompts` tokens of each text masked out; `ordinals` are unchanged."""
        raise NotImplementedError

    def last(self, values: Float[Array, "r p d"]) -> Float[Array, "n d"]:
        """The value of each text's last token; arbitrary without tokens."""
        raise NotImplementedError


def rows_of(tokens: Tokens) -> TokenRows:
    """The rows for the encoder: packed if `tokens.packed` is set, else one text per row."""
    return PaddedRows(tokens) if tokens.packed is None else PackedRows(tokens, tokens.packed)


class PaddedRows(TokenRows):
    """One text per row, padded on either side."""

    def __init__(self, tokens: Tokens) -> None:
        self.ids = tokens.ids
        self.places = self.held = tokens.mask
        self.positions = jnp.arange(tokens.ids.shape[-1])[None]
        # Not `held`, from which `behind` removes prompts: `ordinals` count these tokens, too.
        self._mask = tokens.mask

    @property
    @override
    def texts(self) -> Int[Array, "n l"]:
        """The index of the row."""
        return jnp.broadcast_to(jnp.arange(self.ids.shape[0])[:, None], self.ids.shape)

    @property
    @override
    def ordinals(self) -> Int[Array, "n l"]:
        """The place, counted from the row's first token."""
        # The argmax of a mask is its first True: the first token, after any padding on the left.
        return self.positions - self._mask.argmax(axis=1)[:, None]

    @property
    @override
    def counts(self) -> Int[Array, " n"]:
        return self.held.sum(axis=1, dtype=jnp.int32)

    @override
    def total(self, values: Float[Array, "n l *d"]) -> Float[Array, "n *d"]:
        return (values * _like(self.held, values).astype(values.dtype)).sum(axis=1)

    @override
    def foremost(self, values: Float[Array, "n l *d"]) -> Int[Array, "n *d"]:
        return jnp.where(_like(self.held, values), values, -jnp.inf).argmax(axis=1).astype(jnp.int32)

    @property
    @override
    def numbers(self) -> Int[Array, "_ l"]:
        return self.positions

    @override
    def spread(self, values: Shaped[Array, "n *d"]) -> Shaped[Array, "n l *d"]:
        """Broadcast along the row."""
        return jnp.broadcast_to(values[:, None], (*self.ids.shape, *values.shape[1:]))

    @override
    def reduced(self, reduce: Reduce, *values: Shaped[Array, "n l"]) -> Float[Array, "n *d"]:
        """Reduce row by row with `vmap`, so that XLA can shard rows without communication."""
        # `reduce` sees a batch of one text, number 0, with its padding, which callers exclude themselves.
        alone = jnp.zeros(self.ids.shape[1], jnp.int32)
        return jax.vmap(lambda *row: reduce(alone, 1, *row)[0])(*values)

    @override
    def first(self, values: Float[Array, "n l d"]) -> Float[Array, "n d"]:
        return _along(values, self.held.argmax(axis=1))

    @override
    def last(self, values: Float[Array, "n l d"]) -> Float[Array, "n d"]:
        # The first True of the mask from right to left.
        return _along(values, self.held.shape[1] - 1 - self.held[:, ::-1].argmax(axis=1))

    @override
    def behind(self, prompts: Int[Array, " n"]) -> "PaddedRows":
        rows = copy(self)
        rows.held = self.held & (self.ordinals >= prompts[:, None])
        return rows


class PackedRows(TokenRows):
    """Several texts per row, each contiguous, with its first token at position 0."""

    def __init__(self, tokens: Tokens, packed: Int[Array, "r p"]) -> None:
        self._n, length = tokens.ids.shape
        # `packed` is -1 at padding; any index does there, since padding is masked below.
        place = jnp.maximum(packed, 0)
        self.held = packed >= 0
        self.ids = tokens.ids.reshape(-1)[place]
        # Flat indices of the padded array `[n, length]`; packed texts start in its first column.
        self.positions = place % length
        self._texts = place // length
        # Padding forms one more text, -1: it attends to itself, and no text attends to it.
        self.places = jnp.where(self.held, self._texts, -1)
        self._first: Int[Array, "r p"] | int = 0
        """Position of each text's first unmasked token, see `behind`."""

    @property
    @override
    def texts(self) -> Int[Array, "r p"]:
        return self._texts

    @property
    @override
    def ordinals(self) -> Int[Array, "r p"]:
        return self.positions

    @property
    @override
    def counts(self) -> Int[Array, " n"]:
        return jnp.zeros(self._n, jnp.int32).at[self._segments].add(1, mode="drop")

    @override
    def total(self, values: Float[Array, "r p *d"]) -> Float[Array, "n *d"]:
        """Segment sum."""
        return jax.ops.segment_sum(_flat(values), self._segments, self._n)

    @override
    def foremost(self, values: Float[Array, "r p *d"]) -> Int[Array, "n *d"]:
        """Argmax by a scan along the row that restarts at every text."""
        along = [jnp.moveaxis(x, 1, 0) for x in (jnp.where(_like(self.held, values), values, -jnp.inf), self.places)]
        numbers = jnp.moveaxis(self.numbers, 1, 0)

        # The carry is the running maximum, its number, and the current text; a new text replaces all three.
        def step(before: tuple[Array, ...], place: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
            (largest, number, text), (value, here, now) = before, place
            stays = _like(text == now, value) & (largest >= value)
            number = jnp.where(stays, number, _like(here, value))
            return (jnp.where(stays, largest, value), number, now), number

        start = (along[0][0], jnp.broadcast_to(_like(numbers[0], along[0][0]), along[0][0].shape), along[1][0])
        _, found = jax.lax.scan(step, start, (along[0], numbers, along[1]))
        # `found` is the argmax up to each place; at a text's last token it is that of the whole text.
        found = jnp.moveaxis(found, 0, 1)
        return self.last(found)

    @property
    @override
    def numbers(self) -> Int[Array, "r p"]:
        """Flat index of each place."""
        return jnp.arange(self.ids.size, dtype=jnp.int32).reshape(self.ids.shape)

    @override
    def spread(self, values: Shaped[Array, "n *d"]) -> Shaped[Array, "r p *d"]:
        """Gather each place's text."""
        return values[self._texts]

    @override
    def reduced(self, reduce: Reduce, *values: Shaped[Array, "r p"]) -> Float[Array, "n *d"]:
        """Reduce all places at once; padding belongs to no text."""
        return reduce(self._segments, self._n, *map(_flat, values))

    @override
    def first(self, values: Float[Array, "r p d"]) -> Float[Array, "n d"]:
        """The value at the start of each segment."""
        return _flat(values)[self._begins]

    @override
    def last(self, values: Shaped[Array, "r p *d"]) -> Shaped[Array, "n *d"]:
        """The value at the end of each segment."""
        return _flat(values)[self._begins + jnp.maximum(self.counts - 1, 0)]

    @override
    def behind(self, prompts: Int[Array, " n"]) -> "PackedRows":
        rows = copy(self)
        rows._first = prompts[self._texts]
        rows.held = self.held & (self.positions >= rows._first)
        return rows

    @property
    def _segments(self) -> Int[Array, " places"]:
        """The text of each place; padding gets n, which is out of range and dropped."""
        return jnp.where(self.held, self.texts, self._n).reshape(-1)

    @property
    def _begins(self) -> Int[Array, " n"]:
        """Flat index of each text's first token; 0 without tokens."""
        # One place per text is its first token. All others write to index n, out of range, and are dropped.
        begins = jnp.where(self.held & (self.positions == self._first), self.texts, self._n).reshape(-1)
        places = jnp.arange(begins.size, dtype=jnp.int32)
        return jnp.zeros(self._n, jnp.int32).at[begins].set(places, mode="drop")


def _along(values: Float[Array, "n l d"], index: Int[Array, " n"]) -> Float[Array, "n d"]:
    return jnp.take_along_axis(values, index[:, None, None], axis=1)[:, 0]


def _like(x: Shaped[Array, "*some"], values: Shaped[Array, "*all"]) -> Shaped[Array, "*broadcast"]:
    """Append axes of size 1, to broadcast against `values`."""
    return x.reshape(*x.shape, *(1,) * (values.ndim - x.ndim))


def _flat(values: Float[Array, "r p *d"]) -> Float[Array, "places *d"]:
    return values.reshape(-1, *values.shape[2:])
