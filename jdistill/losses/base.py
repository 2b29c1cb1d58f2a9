"""What every loss is: a configuration that can be called on a View."""

from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float
from pydantic import Field

from jdistill.config import Config
from jdistill.types import Side, View


class LossConfig(Config):
    """One named, weighted term of the training loss.

    A subclass adds `kind: Literal["its_name"]`, its options, and `__call__`. It returns one float32 value per row and
    never reduces: whoever calls it takes the mean over the whole batch.
    """

    space: ClassVar[Literal["student", "teacher"]] = "student"
    """Which student vectors the term sees: its own, or those projected to the teacher's width."""
    needs_teacher: ClassVar[bool] = False

    kind: str
    weight: float = Field(default=1.0, ge=0, description="Factor of this term in the sum.")
    teacher: str | None = Field(
        default=None, description="Which teacher to learn from; may be left out where there is one."
    )

    @property
    def student_space(self) -> str:
        """Key of the student's vectors that this term sees: "student", or "teacher:<name>" when projected.

        Raises:
          ValueError: if the term learns from a teacher whose name was not filled in.
        """
        if self.needs_teacher and self.teacher is None:
            raise ValueError(f"{self.kind} learns from a teacher, but the name of the teacher was not filled in")
        return f"teacher:{self.teacher}" if self.space == "teacher" else "student"

    def __call__(self, view: View) -> Float[Array, " b"]:
        """Value of each row, float32; its mean over the batch is the loss."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Array]:
        """Initial learnable values of this term, float32; empty for most."""
        return {}


def sides(view: View) -> tuple[Side, Side]:
    """Student and teacher of a term that cannot do without a teacher.

    Raises:
      ValueError: if the view has no teacher.
    """
    if view.teacher is None:
        raise ValueError("this loss compares the student with a teacher, but the view has none")
    return view.student, view.teacher


def float32(x: Array) -> Float[Array, "..."]:
    """The same values in float32: losses compute in full precision whatever the model computes in."""
    return x.astype(jnp.float32)
