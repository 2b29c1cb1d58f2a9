"""Common base of losses that wrap another loss: they call it on modified Views and sum the values."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree
from pydantic import Field, field_validator
from typing_extensions import override

from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.maths import float32
from jdistill.papers import Papers
from jdistill.types import LossInputs, PairEmbeddings


class NestedLoss(LossConfig):
    """A term that wraps another loss. Teacher and weight belong to the term; the inner loss has none."""

    loss: LossConfig = Field(description="The inner loss: a mapping with a `kind` and its options.")

    @field_validator("loss")
    @classmethod
    def _is_no_term_of_its_own(cls, loss: LossConfig) -> LossConfig:
        for name in ("teacher", "weight"):
            value = getattr(loss, name)
            if value != type(loss).model_fields[name].default:
                raise ValueError(f"has {name} {value!r}. It belongs to the whole term: move it up, beside 'loss'.")
        return loss

    @override
    def needs(self) -> Needs:
        return self.loss.needs()

    @override
    def parameters(self) -> dict[str, Array]:
        return self.loss.parameters()

    @override
    def cited(self) -> Papers:
        return (*self.papers, *self.loss.cited())

    @override
    def check_labels(self, rows: Mapping[str, int]) -> None:
        self.loss.check_labels(rows)

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        return self.loss.check_targets(teacher, scores)


def sum_drawn(
    parts: Sequence[Callable[[], Float[Array, " b"]]], count: int | None, inputs: LossInputs, *, key: Array
) -> Float[Array, " b"]:
    """Sum of `count` randomly drawn parts; parts not drawn are not computed.

    Args:
      parts: each computes a value per row.
      count: how many to draw; all if None or more than there are.
      inputs: the LossInputs the parts are computed from.
      key: PRNG key of the draw; the same on every device.
    """
    # Made from the rows' vectors, so that under shard_map it varies over devices, as the carry of a scan must.
    nothing = jnp.zeros_like(float32(inputs.student.documents[:, 0]))

    def add(total: Float[Array, " b"], part: Int[Array, ""]) -> tuple[Float[Array, " b"], None]:
        return total + jax.checkpoint(lambda: lax.switch(part, parts))(), None

    # Sequential, and recomputed in the backward pass: unrolled, all score matrices and gradients would be in memory at
    # once.
    return lax.scan(add, nothing, draw(key, len(parts), len(parts) if count is None else count))[0]


def if_drawn(
    part: Callable[[Any, Any], Float[Array, " b"]], drawn: Bool[Array, ""], learning: PyTree[Array], rest: PyTree
) -> Float[Array, " b"]:
    """`part(learning, rest)` if `drawn`, else 0 without computing it; only the inputs are kept for the backward pass.

    A custom VJP, since autodiff of `lax.cond` would store a copy of everything its branches read.

    Args:
      part: computes a value per row; must not close over traced arrays.
      drawn: whether to compute it; the same on every device.
      learning: inputs with a gradient; an array that occurs several times gets one gradient.
      rest: inputs without.
    """
    # On one device `all_queries` is `queries`, the same array. As two inputs it would have two gradients in memory.
    leaves, structure = jax.tree.flatten(learning)
    distinct = {id(leaf): leaf for leaf in leaves}
    places = [list(distinct).index(id(leaf)) for leaf in leaves]

    def of_distinct(values: list[Array], rest: PyTree) -> Float[Array, " b"]:
        return part(structure.unflatten([values[place] for place in places]), rest)

    return _if_drawn(of_distinct, drawn, list(distinct.values()), rest)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _if_drawn(part: Callable, drawn: Array, learning: list[Array], rest: Any) -> Array:
    # As in `sum_drawn`: both branches of the condition must vary over the same mesh axes.
    nothing = jnp.zeros_like(float32(learning[0][:, 0]))
    return lax.cond(drawn, lambda: part(learning, rest), lambda: nothing)


def _forward(part: Callable, drawn: Array, learning: list[Array], rest: Any) -> tuple[Array, tuple]:
    return _if_drawn(part, drawn, learning, rest), (drawn, learning, rest)


def _backward(part: Callable, kept: tuple, cotangent: Array) -> tuple:
    drawn, learning, rest = kept

    def pull() -> list[Array]:
        return jax.vjp(lambda values: part(values, rest), learning)[1](cotangent)[0]

    # None is a cotangent of zero.
    return None, lax.cond(drawn, pull, lambda: jax.tree.map(jnp.zeros_like, learning)), None


_if_drawn.defvjp(_forward, _backward)


def draw(key: Array, of: int, count: int) -> Int[Array, " drawn"]:
    """Up to `count` of the numbers below `of`, drawn uniformly without replacement, ascending.

    Example:
      >>> draw(jax.random.key(0), 5, 2).shape
      (2,)
    """
    return jnp.sort(jax.random.permutation(key, of)[:count])
