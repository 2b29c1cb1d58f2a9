"""Base classes of the losses: a loss is a config that can be called on a LossInputs."""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped
from pydantic import Field, PositiveInt

from jdistill.config import Kind, UserError
from jdistill.losses.maths import float32, matmul
from jdistill.losses.schedule import NonNegative, at
from jdistill.papers import Papers
from jdistill.types import LossInputs, PairEmbeddings, Side

Direction = Literal["q2d", "q2q", "d2q", "d2d"]
"""From the row's text (q query, d document) to its candidates."""

TEXTS: dict[Direction, tuple[str, str]] = {
    "q2d": ("queries", "documents"),
    "q2q": ("queries", "queries"),
    "d2q": ("documents", "queries"),
    "d2d": ("documents", "documents"),
}
"""Direction -> kind of the row's text, kind of its candidates. Hard negatives are only ever candidates, not rows."""


class Needs(NamedTuple):
    """Inputs a term requires besides the student's vectors."""

    teacher: bool = False
    """The teacher's vectors."""
    projection: bool = False
    """It compares the student's vectors with the teacher's, so it needs a projection if the widths differ."""
    layers: tuple[int, ...] | Literal["every"] = ()
    """Earlier layers of the student, each given as its number of layers; `"every"` is all but the last."""
    batch: bool = True
    """The other rows of the batch, because a row's value depends on them. If False, the batch can be split."""


class LossConfig(Kind):
    """One named, weighted term of the training loss.

    A subclass adds `kind: Literal["its_name"]`, its options, and `__call__`. It returns one float32 value per row and
    never reduces: the caller takes the mean over the whole batch.
    """

    papers: ClassVar[Papers] = ()
    """Works that the model card of a student trained with this loss cites, whatever the options."""

    weight: NonNegative = Field(
        default=1.0, description="Factor of this term in the sum: a number, or a ramp over training."
    )
    teacher: str | tuple[str, ...] | None = Field(
        default=None,
        description="The teacher, or several, whose vectors are concatenated. Optional if the run has one teacher.",
    )

    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row, float32; its mean over the batch is the loss.

        Raises:
          UserError: if the rows lack what the loss reads, such as queries, hard negatives, scores or labels.
        """
        raise NotImplementedError

    def needs(self) -> Needs:
        """Inputs besides the student's vectors; they decide what a run loads, and whether a batch can be split."""
        return Needs()

    def parameters(self) -> dict[str, Array]:
        """Initial learnable values of this term, float32; empty for most."""
        return {}

    def cited(self) -> Papers:
        """Works that the model card cites: `papers`, and those behind the options chosen."""
        return self.papers

    def weight_at(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """Weight of the term at `progress`, the fraction of training done."""
        return at(self.weight, progress)

    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Check the first batch of targets for problems worth a warning.

        Args:
          teacher: the teacher's vectors of the batch, if the term needs a teacher.
          scores: the scores of the batch's rows, if the data has them.

        Returns:
          One sentence per problem; the caller prepends the term's name.
        """
        return []

    def check_labels(self, rows: Mapping[str, int]) -> None:
        """Raise if the term cannot learn from the data's labels; most terms use none.

        Args:
          rows: each label of the data -> number of training rows with it; empty if the data has no labels.

        Raises:
          UserError: with the problem; the caller prepends the term's name.
        """

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers this term learns from, empty if it needs none.

        Raises:
          ValueError: if it needs one and `teacher` is not set.
        """
        if not self.needs().teacher:
            return ()
        if self.teacher is None:
            raise ValueError(f"{self.kind} learns from a teacher, but the name of the teacher is not set")
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


class Streamed(LossConfig):
    """A term that scores rows against all candidates of the batch, in blocks."""

    block: PositiveInt = 512
    """Candidates scored at a time; affects memory and speed only."""


def student_and_teacher(inputs: LossInputs) -> tuple[Side, Side]:
    """Student and teacher, for a term that requires a teacher.

    Raises:
      ValueError: if there is no teacher.
    """
    if inputs.teacher is None:
        raise ValueError("this loss compares the student with a teacher, but there is none")
    return inputs.student, inputs.teacher


def local_candidates(own: Shaped[Array, "b *d"], negatives: Shaped[Array, "b k *d"]) -> Shaped[Array, "p *d"]:
    """The batch's candidates on this device: its documents, its first hard negatives, ..."""
    # [b, k, d] -> [k b, d]: the first negative of every row, then the second, as in `all_documents`.
    return jnp.concatenate([own, negatives.swapaxes(0, 1).reshape(-1, *own.shape[1:])])


def own_documents(
    candidates: Shaped[Array, "c *d"], positives: Int[Array, " b"] | None, count: int
) -> Shaped[Array, "b *d"]:
    """The rows' own documents: those at `positives`, else the first `count`, as `local_candidates` lays them out."""
    return candidates[:count] if positives is None else candidates[positives]


def local_candidate_ids(inputs: LossInputs) -> Int[Array, " p"]:
    """Index in `all_documents` of each of this device's candidates."""
    # Of row r the document is in column r, and its j-th hard negative in column j n + r.
    c = 1 + inputs.student.negatives.shape[1]
    n = inputs.ids.all_documents.shape[0] // c
    return (inputs.rows[None] + n * jnp.arange(c)[:, None]).reshape(-1)


def project(x: Float[Array, "*b d"], inputs: LossInputs) -> Float[Array, "*b t"]:
    """The student's vectors in the teacher's space, float32; unchanged without a projection.

    Vectors truncated to a prefix are multiplied by the first rows of the kernel, as in the tied form (MRL-E) of
    Kusupati et al. 2022, arXiv:2205.13147, section 3.
    """
    if inputs.projection is None:
        return x
    kernel, bias = inputs.projection
    flat = float32(x).reshape(-1, x.shape[-1])
    return (matmul(flat, kernel[: x.shape[-1]]) + bias[None]).reshape(*x.shape[:-1], kernel.shape[1])


def queries_of(queries: Float[Array, "n d"] | None, kind: str) -> Float[Array, "n d"]:
    """The queries of a side, for a loss of this `kind`, which requires them.

    Raises:
      UserError: if the rows are plain texts.
    """
    if queries is None:
        raise UserError(
            f"{kind} scores a query against documents, but these rows are plain texts without queries. Name a query "
            "column under data.<source>.columns, or use a loss that needs none, such as embed_cosine or score_mse."
        )
    return queries


def crosses(direction: Direction) -> bool:
    """Whether the row's text and the candidates are of different kinds, so that the candidates contain the positive."""
    return TEXTS[direction][0] != TEXTS[direction][1]
