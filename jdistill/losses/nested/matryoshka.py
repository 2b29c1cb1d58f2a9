"""`matryoshka`: any loss on prefixes of the vectors, so that users can truncate vectors and lose little."""

__all__ = ["Matryoshka"]

from functools import partial
from typing import Annotated, Literal

import jax
from jaxtyping import Array, Float
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.kinds import LeafLoss
from jdistill.losses.maths import float32, normalise
from jdistill.losses.nested.base import NestedLoss, sum_drawn
from jdistill.types import LossInputs, Side


class Matryoshka(NestedLoss):
    """Weighted sum of a loss over normalised prefixes of the student's vectors.

        loss = sum_d w_d inner(x[:d] / |x[:d]|)

    The teacher's vectors are whole for losses that compare scores, and for those that compare vectors through a
    projection, where a prefix is multiplied by the first rows of the kernel. Without a projection, a prefix is compared
    with the teacher's prefix.

    Source: Kusupati et al. 2022, arXiv:2205.13147, equation 1; through a projection, their tied form MRL-E.
    Parity: sentence-transformers MatryoshkaLoss, whose teacher prefixes are as with `renormalise_teacher: false`.
    """

    kind: Literal["matryoshka"] = "matryoshka"
    papers = ("arXiv:2205.13147",)
    loss: LeafLoss
    """The loss of each prefix: a mapping with a `kind` and its options."""
    dims: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Lengths of the prefixes, in any order. Include the student's full width, or the last elements are not trained."""
    weights: tuple[NonNegativeFloat, ...] | None = None
    """Factor of each prefix, in the order of `dims`; null: 1 each."""
    dims_per_step: PositiveInt | None = None
    """Draw this many prefixes at random in each step, to save time; the others count as 0. Null: all."""
    renormalise_teacher: bool = True
    """Normalise the teacher's prefixes, as the student's are. No effect on losses that ignore length, such as
    cosine."""

    @model_validator(mode="after")
    def _prefixes_are_distinct_and_weighed(self) -> "Matryoshka":
        if len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims {list(self.dims)} has a number twice. Give each once.")
        if self.weights is not None and len(self.weights) != len(self.dims):
            raise ValueError(f"weights has {len(self.weights)} numbers, but dims has {len(self.dims)}. Give one each.")
        if self.dims_per_step is not None and self.dims_per_step > len(self.dims):
            raise ValueError(f"dims_per_step is {self.dims_per_step}, but dims has {len(self.dims)}. Lower it.")
        return self

    @property
    def prefixes(self) -> tuple[tuple[int, float], ...]:
        """Length and factor of each prefix, the longest first."""
        weights = self.weights or (1.0,) * len(self.dims)
        return tuple(sorted(zip(self.dims, weights, strict=True), reverse=True))

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row, summed over the prefixes.

        Raises:
          UserError: if a prefix is longer than the student's vectors.
          ValueError: if vectors of different widths are compared without a projection.
        """
        width = inputs.student.documents.shape[-1]
        beyond = [dim for dim, _ in self.prefixes if dim > width]
        if beyond:
            raise UserError(
                f"matryoshka: dims has {', '.join(map(str, beyond))}, but the student's width is {width}. Lower it to "
                f"{width} or less."
            )
        draw_key, own_key = jax.random.split(inputs.key)
        parts = [partial(self._value, inputs, dim, weight, own_key) for dim, weight in self.prefixes]
        return sum_drawn(parts, self.dims_per_step, inputs, key=draw_key)

    def _value(self, inputs: LossInputs, dim: int, weight: float, key: Array) -> Float[Array, " b"]:
        seen = inputs._replace(
            student=prefix(inputs.student, dim),
            at_layer={layer: prefix(side, dim) for layer, side in inputs.at_layer.items()},
            teacher=self._teacher(inputs, dim),
            # By its length, so that a prefix has the same random numbers whichever others are drawn.
            key=jax.random.fold_in(key, dim),
        )
        return weight * self.loss(seen)

    def _teacher(self, inputs: LossInputs, dim: int) -> Side | None:
        compares_vectors = self.loss.needs().projection and inputs.projection is None
        if inputs.teacher is None or not compares_vectors:
            return inputs.teacher
        ours, theirs = inputs.student.documents.shape[-1], inputs.teacher.documents.shape[-1]
        if ours != theirs:
            raise ValueError(
                f"matryoshka: {self.loss.kind} needs vectors of equal width, but the student's have {ours} and the "
                f"teacher's {theirs}; project the student, or use score_* losses"
            )
        return prefix(inputs.teacher, dim, normalised=self.renormalise_teacher)


def prefix(side: Side, dim: int, *, normalised: bool = True) -> Side:
    """The first `dim` elements of every vector, float32.

    Args:
      side: vectors at least `dim` wide.
      dim: length of the prefix.
      normalised: scale each to norm 1; a zero prefix stays zero.

    Example:
      >>> row = jax.numpy.array([[3.0, 4.0, 12.0]])
      >>> side = Side(queries=None, documents=row, negatives=row[None], all_queries=None, all_documents=row)
      >>> print(prefix(side, 2).documents, prefix(side, 2, normalised=False).documents)
      [[0.6 0.8]] [[3. 4.]]
    """
    finish = normalise if normalised else float32
    return jax.tree.map(lambda x: finish(x[..., :dim]), side)
