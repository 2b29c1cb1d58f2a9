"""Match distributions over a row's own documents, such as a cross-encoder's."""

__all__ = ["listwise_kl"]

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jdistill.losses.maths import float32
from jdistill.losses.softmax import DIVERGENCES, Divergence, logits_of


def listwise_kl(
    student: Float[Array, "b c"],
    teacher: Float[Array, "b c"],
    *,
    temperature: float,
    teacher_temperature: float,
    divergence: Divergence = "kl",
    excluded_from: Literal["teacher", "both"] = "teacher",
) -> Float[Array, " b"]:
    """Match the student's softmax over a query's own documents to the teacher's.

    The usual loss for scores of a cross-encoder, which exist for the row's own documents only.
        loss_i = T^2 KL(softmax_j(teacher_ij / T_t) || softmax_j(student_ij / T))

    Args:
      student: the student's score of each document, `[b, c]`.
      teacher: the teacher's, on any scale; -inf excludes a document. A row whose documents are all excluded gives 0.
      temperature: T, divides the student's scores, > 0.
      teacher_temperature: T_t, divides the teacher's scores, > 0.
      divergence: as for `score_kl`.
      excluded_from: whether documents are excluded from the `"teacher"`'s distribution only, or from `"both"`.

    Returns:
      Divergence of each row, times T^2, `[b]`; >= 0.

    Source:
      Lin et al. 2020, arXiv:2010.11386, section 3, with T^2 of Hinton et al. 2015, arXiv:1503.02531, section 2.
      Parity: sentence-transformers DistillKLDivLoss, which excludes from the teacher's distribution only; for
      `"cross_entropy"` FlagEmbedding's `kl_div`.

    Example:
      >>> student, teacher = jnp.zeros((1, 2)), jnp.array([[0.0, 1.0]])
      >>> round(float(listwise_kl(student, teacher, temperature=1.0, teacher_temperature=1.0)[0]), 4)
      0.1109
    """
    s, t = float32(student), lax.stop_gradient(float32(teacher))
    given = t > -jnp.inf
    any_given = given.any(axis=1, keepdims=True)
    t = jnp.where(any_given, t, 0.0)  # any finite number: the row's value is replaced below, and no gradient is NaN
    if excluded_from == "both":
        # A row without any given score keeps the student's, so that its softmax, and hence its gradient, is no NaN.
        s = jnp.where(given | ~any_given, s, -jnp.inf)
    s, t = logits_of(s, temperature), logits_of(t, teacher_temperature)
    of_student, of_teacher = (jax.nn.logsumexp(x, axis=1, keepdims=True) for x in (s, t))
    values = DIVERGENCES[divergence](s, of_student, t, of_teacher).sum(axis=1)
    return jnp.where(any_given[:, 0], values, 0.0) * temperature**2
