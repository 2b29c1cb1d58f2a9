"""What losses that hold another loss have in common: they call it on changed Views and add the values up."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int
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


def draw(key: Array, of: int, count: int) -> Int[Array, " drawn"]:
    """Which of so many are drawn, ascending: `count` of them at most, without replacement, all equally likely.

    Example:
      >>> draw(jax.random.key(0), 5, 2).shape
      (2,)
    """
    return jnp.sort(jax.random.permutation(key, of)[:count])
