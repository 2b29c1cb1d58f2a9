"""What losses that hold another loss have in common: they call it on changed Views and add the values up."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PyTree
from pydantic import Field, field_validator

from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.maths import float32
from jdistill.types import Columns, View


class NestedLoss(LossConfig):
    """A term whose value is made of another loss. Teacher and weight are the term's; the loss inside has none."""

    loss: LossConfig = Field(description="The loss inside: a mapping with a `kind` and its options.")

    @field_validator("loss")
    @classmethod
    def _is_no_term_of_its_own(cls, loss: LossConfig) -> LossConfig:
        for name in ("teacher", "weight"):
            value = getattr(loss, name)
            if value != type(loss).model_fields[name].default:
                raise ValueError(f"has {name} {value!r}. It belongs to the whole term: move it up, beside 'loss'.")
        return loss

    def needs(self) -> Needs:
        """What the loss inside needs."""
        return self.loss.needs()

    def parameters(self) -> dict[str, Array]:
        """Those of the loss inside."""
        return self.loss.parameters()

    def check_labels(self, rows: Mapping[str, int]) -> None:
        """What the loss inside refuses."""
        self.loss.check_labels(rows)

    def examine(self, teacher: Columns | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """What the loss inside says."""
        return self.loss.examine(teacher, scores)


def sum_drawn(
    parts: Sequence[Callable[[], Float[Array, " b"]]], count: int | None, view: View, *, key: Array
) -> Float[Array, " b"]:
    """Sum of `count` of the parts, drawn anew for each key; those not drawn cost no time.

    Args:
      parts: each computes a value per row.
      count: how many to draw; all if None or more than there are.
      view: what the parts compute from.
      key: decides which; the same on every device.
    """
    # From the rows' own vectors, so that under shard_map it is each device's own value.
    nothing = jnp.zeros_like(float32(view.student.documents[:, 0]))

    def add(total: Float[Array, " b"], part: Int[Array, ""]) -> tuple[Float[Array, " b"], None]:
        return total + jax.checkpoint(lambda: lax.switch(part, parts))(), None

    # One after the other, and computed again in the backward pass: laid out side by side, all their score matrices and
    # gradients would be held at once.
    return lax.scan(add, nothing, draw(key, len(parts), len(parts) if count is None else count))[0]


def if_drawn(
    part: Callable[[Any, Any], Float[Array, " b"]], drawn: Bool[Array, ""], learning: PyTree[Array], rest: PyTree
) -> Float[Array, " b"]:
    """`part(learning, rest)` where `drawn`, else 0 at no cost; nothing but the inputs is kept for the backward pass.

    The derivative is written by hand, since that of a condition keeps a copy of all that its branches read.

    Args:
      part: computes a value per row; closes over no traced array.
      drawn: the same on every device.
      learning: what has a derivative; arrays that occur several times get one together.
      rest: what has none.
    """
    leaves, structure = jax.tree.flatten(learning)
    distinct = {id(leaf): leaf for leaf in leaves}
    places = [list(distinct).index(id(leaf)) for leaf in leaves]

    def of_distinct(values: list[Array], rest: PyTree) -> Float[Array, " b"]:
        return part(structure.unflatten([values[place] for place in places]), rest)

    return _if_drawn(of_distinct, drawn, list(distinct.values()), rest)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _if_drawn(part: Callable, drawn: Array, learning: list[Array], rest: Any) -> Array:
    nothing = jnp.zeros_like(float32(learning[0][:, 0]))
    return lax.cond(drawn, lambda: part(learning, rest), lambda: nothing)


def _forward(part: Callable, drawn: Array, learning: list[Array], rest: Any) -> tuple[Array, tuple]:
    return _if_drawn(part, drawn, learning, rest), (drawn, learning, rest)


def _backward(part: Callable, kept: tuple, cotangent: Array) -> tuple:
    drawn, learning, rest = kept

    def pull() -> list[Array]:
        return jax.vjp(lambda values: part(values, rest), learning)[1](cotangent)[0]

    return None, lax.cond(drawn, pull, lambda: jax.tree.map(jnp.zeros_like, learning)), None


_if_drawn.defvjp(_forward, _backward)


def draw(key: Array, of: int, count: int) -> Int[Array, " drawn"]:
    """Which of so many are drawn, ascending: `count` of them at most, without replacement, all equally likely.

    Example:
      >>> draw(jax.random.key(0), 5, 2).shape
      (2,)
    """
    return jnp.sort(jax.random.permutation(key, of)[:count])
