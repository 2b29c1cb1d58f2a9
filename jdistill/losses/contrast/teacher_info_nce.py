"""Teacher InfoNCE: identify the teacher's vector of each text among the teacher's vectors of the batch."""

__all__ = ["TeacherInfoNCE", "teacher_info_nce"]

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import field_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import (
    TEXTS,
    Direction,
    Needs,
    Streamed,
    local_candidate_ids,
    local_candidates,
    project,
    student_and_teacher,
)
from jdistill.losses.blocks import SINGLE_DEVICE, logsumexp_over
from jdistill.losses.maths import matmul, normalise
from jdistill.losses.temperature import Temperature, temperature_of, temperature_parameters
from jdistill.types import CandidateExchange, LossInputs


class TeacherInfoNCE(Streamed):
    """Cross-entropy of the teacher's vector of a text among the teacher's vectors of the batch."""

    kind: Literal["teacher_info_nce"] = "teacher_info_nce"
    papers = ("arXiv:1910.10699", "arXiv:1807.03748")
    temperature: Temperature = 0.07
    """Divides the cosines. `{start, min, max}` to learn it."""
    directions: tuple[Direction, ...] | None = None
    """From the student's texts to the teacher's, averaged. q2q and d2d: the positive is the teacher's vector of the
    same text; q2d and d2q: of the row's other text. Default: q2q and d2d, or d2d alone for plain texts."""

    @field_validator("directions")
    @classmethod
    def _names_each_once(cls, directions: tuple[Direction, ...] | None) -> tuple[Direction, ...] | None:
        if directions is not None and (not directions or len(set(directions)) < len(directions)):
            raise ValueError(f"is {list(directions)}; name at least one of {', '.join(TEXTS)}, each once.")
        return directions

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True, projection=True)

    @override
    def parameters(self) -> dict[str, Array]:
        return temperature_parameters(self.temperature)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Mean of each row over the directions; d2d is itself a mean over the row's document and hard negatives.

        Raises:
          UserError: if a direction needs queries and the rows are plain texts.
          ValueError: if there is no teacher, or if the widths differ.
        """
        plain = inputs.student.queries is None
        directions = self.directions or (("d2d",) if plain else ("q2q", "d2d"))
        if plain and directions != ("d2d",):
            raise UserError(
                f"teacher_info_nce has directions {', '.join(directions)}, but these rows are plain texts without "
                "queries. Name a query column under data.<source>.columns, or leave 'directions' out."
            )
        temperature = temperature_of(self.temperature, inputs.parameters)
        values = []
        for direction in directions:
            texts, candidates, columns = opposed(inputs, direction)
            flat = texts.reshape(-1, texts.shape[-1])
            # Candidates are laid out column after column, so text j of row i is candidate j b + i.
            positives = jnp.arange(texts.shape[0])[:, None] + texts.shape[0] * jnp.arange(texts.shape[1])[None]
            each = teacher_info_nce(
                flat,
                candidates,
                positives.reshape(-1),
                temperature=temperature,
                block=self.block,
                columns=columns,
                sweep=inputs.sweep,
            )
            values.append(each.reshape(positives.shape).mean(axis=1))
        return jnp.stack(values).mean(axis=0)


def opposed(
    inputs: LossInputs, direction: Direction
) -> tuple[Float[Array, "b c t"], Float[Array, "p t"], Int[Array, " p"]]:
    """The student's vectors of one side of each row; this device's candidates of the teacher; their columns."""
    student, teacher = student_and_teacher(inputs)
    side, pool = TEXTS[direction]
    texts = student.queries if side == "queries" else student.documents
    candidates, columns = teacher.queries, inputs.rows
    if pool == "documents":
        candidates, columns = local_candidates(teacher.documents, teacher.negatives), local_candidate_ids(inputs)
    if texts is None or candidates is None:
        raise ValueError(f"direction {direction} needs query vectors of both student and teacher")
    texts = texts[:, None]
    if direction == "d2d":
        texts = jnp.concatenate([texts, student.negatives], axis=1)
    projected = project(texts, inputs)
    ours, theirs = projected.shape[-1], candidates.shape[-1]
    if ours != theirs:
        raise ValueError(
            f"teacher_info_nce compares vectors of one width, but the student's have {ours} and the teacher's "
            f"{theirs}; project the student, or use score_* losses"
        )
    return projected, candidates, columns


def teacher_info_nce(
    student: Float[Array, "b t"],
    teacher: Float[Array, "c t"],
    positives: Int[Array, " b"],
    *,
    temperature: float | Float[Array, ""],
    block: int = 512,
    columns: Int[Array, " c"] | None = None,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, " b"]:
    """Make each student vector closer to the teacher's vector of the same text than to those of all other texts.

    embed_cosine requires the teacher's exact direction; this loss only requires the right vector to be the nearest,
    which is easier for a student much smaller than its teacher.
        loss_i = logsumexp_j(s_ij) - s_i,pos(i),   s_ij = cos(student_i, teacher_j) / temperature

    Args:
      student: vectors projected to the teacher's width, `[b, t]`, any float; maths runs in float32.
      teacher: the teacher's vectors of all texts of the batch, `[c, t]`; or this device's.
      positives: column of each text's own teacher vector, `[b]`, values in `[0, c)`.
      temperature: divides the cosines; dimensionless, > 0.
      block: teacher vectors scored at a time; affects memory and speed only.
      columns: index of each of the teacher's vectors in the whole batch, `[c]`; by default 0, 1, ...
      sweep: pairs the rows with the candidates of all devices.

    Returns:
      Loss of each text in nats, `[b]`, >= 0.

    Source:
      Tian et al. 2020, arXiv:1910.10699, with the softmax of van den Oord et al. 2018, arXiv:1807.03748, equation 4.
      Parity: tokenlearn's ContrastiveLoss(temperature). The "towers" of nomic's contrastors is a quarter of `info_nce`
      plus three quarters of this with directions q2q, d2d and q2d.

    Example:
      >>> round(float(teacher_info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0).mean()), 4)
      0.3133
    """
    # A constant added to all scores of a row does not change the loss, so the teacher's vectors can be centred.
    # Embeddings share a large mean; without it the scores are smaller, and their differences lose fewer digits.
    student, teacher = normalise(student), normalise(teacher)
    centred = teacher - sweep.mean(teacher)[None]
    columns = jnp.arange(len(teacher)) if columns is None else columns
    pair_scores = jnp.sum(student * centred[positives], axis=-1)
    negatives = logsumexp_over(
        negative_logits,
        (student, pair_scores, columns[positives]),
        (centred, columns),
        jnp.asarray(temperature, jnp.float32),
        block=block,
        sweep=sweep,
    )
    # log(1 + sum over negatives), since the positive's own logit is 0 relative to itself.
    return jnp.logaddexp(negatives, 0.0)


def negative_logits(
    rows: tuple[Float[Array, "b t"], Float[Array, " b"], Int[Array, " b"]],
    candidates: tuple[Float[Array, "k t"], Int[Array, " k"]],
    temperature: Float[Array, ""],
) -> Float[Array, "b k"]:
    """The tile: logit of each candidate relative to that of the positive, which itself is left out as -inf."""
    (texts, pair_scores, positives), (vectors, columns) = rows, candidates
    logits = (matmul(texts, vectors.T) - pair_scores[:, None]) / temperature
    return jnp.where(positives[:, None] == columns[None], -jnp.inf, logits)
