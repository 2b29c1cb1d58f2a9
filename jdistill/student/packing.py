"""The rows in which an encoder computes, and how what it gives is reduced to one value per text.

Texts come padded, one per row of `Tokens`. Without packing an encoder computes on just these rows. Packed, several
texts stand one behind the other in a row, so that it computes on few places that hold no token: attention stays within
a text and positions count from its start, so a token's vector is that of the padded rows. Reductions, such as the mean
of a text's tokens, are then sums over segments; texts are never laid apart again.
"""

from collections.abc import Callable
from copy import copy

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jdistill.types import Tokens

Reduce = Callable[..., Array]
"""`(texts [places], n, *values [places]) -> [n, ...]`; a text is a number in [0, n), or n for a place to leave out."""


class Rows:
    """`r` rows of `p` places that hold the tokens of `n` texts."""

    ids: Int[Array, "r p"]
    """Tokens; of an empty place any token."""
    positions: Int[Array, "_ p"]
    """Of each place within its text, padding on its left counted; one row where all rows agree."""
    places: Bool[Array, "r p"] | Int[Array, "r p"]
    """Which places hold a token, or of which text they are, as `attention` wants it."""
    held: Bool[Array, "r p"]
    """Which places hold a token."""

    @property
    def texts(self) -> Int[Array, "r p"]:
        """The text of each place that holds a token, in [0, n)."""
        raise NotImplementedError

    @property
    def ordinals(self) -> Int[Array, "r p"]:
        """Of each token, how many tokens of its text stand before it."""
        raise NotImplementedError

    @property
    def counts(self) -> Int[Array, " n"]:
        """Tokens of each text."""
        raise NotImplementedError

    def total(self, values: Float[Array, "r p *d"]) -> Float[Array, "n *d"]:
        """Sum over the tokens of each text."""
        raise NotImplementedError

    def foremost(self, values: Float[Array, "r p *d"]) -> Int[Array, "n *d"]:
        """Which of `numbers` the largest value of each text's tokens has, of equal ones the first; any without tokens.

        Found by handing numbers on with values, not by comparing values with their largest: XLA may compute a value
        anew in each fused loop that reads it, and round it otherwise, so that none would be equal.
        """
        raise NotImplementedError

    def largest(self, values: Float[Array, "r p *d"]) -> Float[Array, "n *d"]:
        """Largest over the tokens of each text; minus infinity where there is none. Its gradient goes to `foremost`."""
        found = self.total(jnp.where(self.chosen(self.foremost(jax.lax.stop_gradient(values))), values, 0.0))
        return jnp.where(_like(self.counts > 0, found), found, -jnp.inf)

    def chosen(self, numbers: Int[Array, "n *d"]) -> Bool[Array, "r p *d"]:
        """Which places have the number that their text has."""
        spread = self.spread(numbers)
        return spread == _like(self.numbers, spread)

    @property
    def numbers(self) -> Int[Array, "_ p"]:
        """A number for each place, unlike those of other places with the same text."""
        raise NotImplementedError

    def spread(self, values: Shaped[Array, "n *d"]) -> Shaped[Array, "r p *d"]:
        """To each place that of its text; to an empty place any."""
        raise NotImplementedError

    def reduced(self, reduce: Reduce, *values: Shaped[Array, "r p"]) -> Float[Array, "n *d"]:
        """What a reduction that is none of these makes of the tokens of each text."""
        raise NotImplementedError

    def first(self, values: Float[Array, "r p d"]) -> Float[Array, "n d"]:
        """That of each text's first token; any place's where there is none."""
        raise NotImplementedError

    def behind(self, prompts: Int[Array, " n"]) -> "Rows":
        """The same rows, as if places of the first so many tokens of each text held none; `ordinals` stay."""
        raise NotImplementedError

    def last(self, values: Float[Array, "r p d"]) -> Float[Array, "n d"]:
        """That of each text's last token; any place's where there is none."""
        raise NotImplementedError


def rows_of(tokens: Tokens) -> Rows:
    """The rows in which the encoder computes: packed where the tokens say how, else one text per row."""
    return PaddedRows(tokens) if tokens.packed is None else PackedRows(tokens, tokens.packed)


class PaddedRows(Rows):
    """One text per row, padded on either side."""

    def __init__(self, tokens: Tokens) -> None:
        self.ids = tokens.ids
        self.places = self.held = tokens.mask
        self.positions = jnp.arange(tokens.ids.shape[-1])[None]
        self._mask = tokens.mask

    @property
    def texts(self) -> Int[Array, "n l"]:
        """The number of the row."""
        return jnp.broadcast_to(jnp.arange(self.ids.shape[0])[:, None], self.ids.shape)

    @property
    def ordinals(self) -> Int[Array, "n l"]:
        """The place, counted from the first token."""
        return self.positions - self._mask.argmax(axis=1)[:, None]

    @property
    def counts(self) -> Int[Array, " n"]:
        """Places that hold a token."""
        return self.held.sum(axis=1, dtype=jnp.int32)

    def total(self, values: Float[Array, "n l *d"]) -> Float[Array, "n *d"]:
        """Sum over a row without its padding."""
        return (values * _like(self.held, values).astype(values.dtype)).sum(axis=1)

    def foremost(self, values: Float[Array, "n l *d"]) -> Int[Array, "n *d"]:
        """See Rows."""
        return jnp.where(_like(self.held, values), values, -jnp.inf).argmax(axis=1).astype(jnp.int32)

    @property
    def numbers(self) -> Int[Array, "_ l"]:
        """The position."""
        return self.positions

    def spread(self, values: Shaped[Array, "n *d"]) -> Shaped[Array, "n l *d"]:
        """Along the row."""
        return jnp.broadcast_to(values[:, None], (*self.ids.shape, *values.shape[1:]))

    def reduced(self, reduce: Reduce, *values: Shaped[Array, "n l"]) -> Float[Array, "n *d"]:
        """Row by row: so XLA sees that rows need nothing of each other, wherever they lie."""
        alone = jnp.zeros(self.ids.shape[1], jnp.int32)
        return jax.vmap(lambda *row: reduce(alone, 1, *row)[0])(*values)

    def first(self, values: Float[Array, "n l d"]) -> Float[Array, "n d"]:
        """At the first place that holds a token."""
        return _along(values, self.held.argmax(axis=1))

    def last(self, values: Float[Array, "n l d"]) -> Float[Array, "n d"]:
        """At the last place that holds a token."""
        return _along(values, self.held.shape[1] - 1 - self.held[:, ::-1].argmax(axis=1))

    def behind(self, prompts: Int[Array, " n"]) -> "PaddedRows":
        """See Rows."""
        rows = copy(self)
        rows.held = self.held & (self.ordinals >= prompts[:, None])
        return rows


class PackedRows(Rows):
    """Several texts per row, each of its tokens without a gap, the first token at position 0."""

    def __init__(self, tokens: Tokens, packed: Int[Array, "r p"]) -> None:
        self._n, length = tokens.ids.shape
        place = jnp.maximum(packed, 0)
        self.held = packed >= 0
        self.ids = tokens.ids.reshape(-1)[place]
        self.positions = place % length
        self._texts = place // length
        # Empty places are one more text: they attend each other, and nothing attends them.
        self.places = jnp.where(self.held, self._texts, -1)
        self._first: Int[Array, "r p"] | int = 0
        """Position of each text's first token that counts."""

    @property
    def texts(self) -> Int[Array, "r p"]:
        """As packed."""
        return self._texts

    @property
    def ordinals(self) -> Int[Array, "r p"]:
        """The position."""
        return self.positions

    @property
    def counts(self) -> Int[Array, " n"]:
        """Places of each text."""
        return jnp.zeros(self._n, jnp.int32).at[self._segments].add(1, mode="drop")

    def total(self, values: Float[Array, "r p *d"]) -> Float[Array, "n *d"]:
        """Sum over segments."""
        return jax.ops.segment_sum(_flat(values), self._segments, self._n)

    def foremost(self, values: Float[Array, "r p *d"]) -> Int[Array, "n *d"]:
        """See Rows; found by a scan along the row that begins anew with every text."""
        along = [jnp.moveaxis(x, 1, 0) for x in (jnp.where(_like(self.held, values), values, -jnp.inf), self.places)]
        numbers = jnp.moveaxis(self.numbers, 1, 0)

        def step(before: tuple[Array, ...], place: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
            (largest, number, text), (value, here, now) = before, place
            stays = _like(text == now, value) & (largest >= value)
            number = jnp.where(stays, number, _like(here, value))
            return (jnp.where(stays, largest, value), number, now), number

        start = (along[0][0], jnp.broadcast_to(_like(numbers[0], along[0][0]), along[0][0].shape), along[1][0])
        _, found = jax.lax.scan(step, start, (along[0], numbers, along[1]))
        found = jnp.moveaxis(found, 0, 1)
        return self.last(found)

    @property
    def numbers(self) -> Int[Array, "r p"]:
        """Places, counted through."""
        return jnp.arange(self.ids.size, dtype=jnp.int32).reshape(self.ids.shape)

    def spread(self, values: Shaped[Array, "n *d"]) -> Shaped[Array, "r p *d"]:
        """To the places of its segment."""
        return values[self._texts]

    def reduced(self, reduce: Reduce, *values: Shaped[Array, "r p"]) -> Float[Array, "n *d"]:
        """All places at once; those that hold no token are of none of the texts."""
        return reduce(self._segments, self._n, *map(_flat, values))

    def first(self, values: Float[Array, "r p d"]) -> Float[Array, "n d"]:
        """Where each segment begins."""
        return _flat(values)[self._begins]

    def last(self, values: Shaped[Array, "r p *d"]) -> Shaped[Array, "n *d"]:
        """Where each segment ends."""
        return _flat(values)[self._begins + jnp.maximum(self.counts - 1, 0)]

    def behind(self, prompts: Int[Array, " n"]) -> "PackedRows":
        """See Rows."""
        rows = copy(self)
        rows._first = prompts[self._texts]
        rows.held = self.held & (self.positions >= rows._first)
        return rows

    @property
    def _segments(self) -> Int[Array, " places"]:
        """The text of each place; what is empty falls out of range and is dropped."""
        return jnp.where(self.held, self.texts, self._n).reshape(-1)

    @property
    def _begins(self) -> Int[Array, " n"]:
        """The place, counted through, of each text's first token; 0 where there is none."""
        begins = jnp.where(self.held & (self.positions == self._first), self.texts, self._n).reshape(-1)
        places = jnp.arange(begins.size, dtype=jnp.int32)
        return jnp.zeros(self._n, jnp.int32).at[begins].set(places, mode="drop")


def _along(values: Float[Array, "n l d"], index: Int[Array, " n"]) -> Float[Array, "n d"]:
    return jnp.take_along_axis(values, index[:, None, None], axis=1)[:, 0]


def _like(x: Shaped[Array, "*some"], values: Shaped[Array, "*all"]) -> Shaped[Array, "*broadcast"]:
    """With axes of one added, so that it goes with values of more axes."""
    return x.reshape(*x.shape, *(1,) * (values.ndim - x.ndim))


def _flat(values: Float[Array, "r p *d"]) -> Float[Array, "places *d"]:
    return values.reshape(-1, *values.shape[2:])
