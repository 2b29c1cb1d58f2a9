"""Match each student vector with the teacher's vector of the same text (`embed_*`).

The student's vectors are first projected to the teacher's width. A row's value is the mean over its texts (query,
document and each hard negative), so every column has the same weight, as in sentence-transformers' EmbedDistillLoss.
No term here depends on other rows, so nothing is gathered.
"""

__all__ = ["EmbedCosine", "EmbedKL", "EmbedL2", "EmbedMSE", "embed_cosine", "embed_kl", "embed_l2", "embed_mse"]

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from pydantic import PositiveFloat
from typing_extensions import override

from jdistill.losses.base import LossConfig, Needs, project, queries_of, student_and_teacher
from jdistill.losses.maths import cosine, float32, norm
from jdistill.losses.softmax import kl_terms, logits_of, underflow_warnings
from jdistill.types import LossInputs, PairEmbeddings, Side

Target = Literal["own", "query"]


class EmbedLoss(LossConfig):
    """A distance between paired vectors, averaged over the texts of each row."""

    target: Target = "own"
    """The teacher vector each text is compared with: that of the text itself (own), or that of the row's query for all
    its texts. The latter is for translations: the query is in a language the teacher knows, the document and the hard
    negative columns are its translations."""

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True, projection=True, batch=False)


class EmbedCosine(EmbedLoss):
    """One minus the cosine of the angle between student and teacher vector."""

    kind: Literal["embed_cosine"] = "embed_cosine"
    papers = ("arXiv:2301.12005",)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        return over_columns(inputs, embed_cosine, target=self.target)


class EmbedL2(EmbedLoss):
    """Euclidean distance between student and teacher vector."""

    kind: Literal["embed_l2"] = "embed_l2"
    papers = ("arXiv:2301.12005",)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        return over_columns(inputs, embed_l2, target=self.target)


class EmbedMSE(EmbedLoss):
    """Mean squared difference between the elements of student and teacher vector."""

    kind: Literal["embed_mse"] = "embed_mse"
    papers = ("arXiv:2004.09813",)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        return over_columns(inputs, embed_mse, target=self.target)


class EmbedKL(EmbedLoss):
    """KL divergence of the student's softmax over embedding dimensions from the teacher's."""

    kind: Literal["embed_kl"] = "embed_kl"
    papers = ("arXiv:1503.02531",)
    temperature: PositiveFloat = 1.0
    """Divides both vectors before the softmax. Elements of unit vectors are small, so at 1 both are nearly uniform."""

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        distance = partial(embed_kl, temperature=self.temperature)
        return over_columns(inputs, distance, target=self.target)

    @override
    def check_targets(self, teacher: PairEmbeddings | None, scores: Float[Array, "n s"] | None) -> list[str]:
        """Report NaN in the teacher's vectors, and elements that underflow in the softmax."""
        if teacher is None:
            return []
        sides = [x for x in (teacher.queries, teacher.documents) if x is not None]
        elements = np.concatenate([np.asarray(x, np.float32).reshape(-1, x.shape[-1]) for x in sides])
        what = "the elements of its vectors"
        return underflow_warnings(elements, self.temperature, what=what, option="temperature")


def over_columns(
    inputs: LossInputs, distance: Callable[[Array, Array], Array], *, target: Target = "own"
) -> Float[Array, " b"]:
    """Mean of `distance` over the texts of each row.

    Args:
      inputs: of rows with queries, if the target is `"query"`.
      distance: between the student's and the teacher's vectors, `([b, c, d], [b, c, d]) -> [b, c]`.
      target: which teacher vector a text is compared with.

    Raises:
      UserError: if the target is `"query"` and the rows are plain texts.
      ValueError: if there is no teacher, the widths differ, or only one side has queries.
    """
    student, teacher = student_and_teacher(inputs)
    if target == "query":
        teacher = _queries_everywhere(teacher)
    pairs = [
        (project(student.documents[:, None], inputs), teacher.documents[:, None]),
        (project(student.negatives, inputs), teacher.negatives),
    ]
    if student.queries is not None and teacher.queries is not None:
        pairs.append((project(student.queries[:, None], inputs), teacher.queries[:, None]))
    # Here one of them is None; they are the same only if both are.
    elif student.queries is not teacher.queries:
        raise ValueError("only one of student and teacher has vectors of queries")
    ours, theirs = pairs[0][0].shape[-1], pairs[0][1].shape[-1]
    if ours != theirs:
        raise ValueError(
            f"embed_* losses need vectors of equal width, but the student's have {ours} and the teacher's {theirs}; "
            "project the student, or use score_* losses"
        )
    return jnp.concatenate([distance(s, t) for s, t in pairs], axis=1).mean(axis=1)


def _queries_everywhere(teacher: Side) -> Side:
    """The teacher with the query's vector in place of the row's other texts."""
    queries = queries_of(teacher.queries, "embed_* with target 'query'")
    negatives = jnp.broadcast_to(queries[:, None], (*teacher.negatives.shape[:2], queries.shape[-1]))
    return teacher._replace(documents=queries, negatives=negatives)


def embed_cosine(student: Float[Array, "*b d"], teacher: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Align direction with the teacher; ignore length.

    The default for distillation: it trains best of the `embed_*` family, since length does not compete with direction.
        loss = 1 - s.t / (max(|s|, 1e-8) max(|t|, 1e-8))

    Args:
      student: vectors projected to the teacher's width, any float; maths runs in float32.
      teacher: the teacher's vectors of the same texts.

    Returns:
      Value of each vector, in [0, 2]; 1 where either vector is zero.

    Source:
      Kim et al. 2023, arXiv:2301.12005, sections 4.1 and 4.2, with cosine in place of their Euclidean distance.
      Parity: sentence-transformers EmbedDistillLoss(distance_metric="cosine").

    Example:
      >>> embed_cosine(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 3.0]])).tolist()
      [1.0]
    """
    return 1 - cosine(student, teacher)


def embed_l2(student: Float[Array, "*b d"], teacher: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Minimise the Euclidean distance between student and teacher vector.

        loss = |s - t|

    Args:
      student: vectors projected to the teacher's width, any float; maths runs in float32.
      teacher: the teacher's vectors of the same texts.

    Returns:
      Distance of each pair, >= 0; its gradient is 0 where the vectors are equal.

    Source:
      Kim et al. 2023, arXiv:2301.12005, equations 7 and 8.
      Parity: sentence-transformers EmbedDistillLoss(distance_metric="l2").

    Example:
      >>> embed_l2(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])).tolist()
      [5.0]
    """
    return norm(float32(student) - float32(teacher))


def embed_mse(student: Float[Array, "*b d"], teacher: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Minimise the mean squared difference of the elements.

        loss = |s - t|^2 / d

    Args:
      student: vectors projected to the teacher's width, any float; maths runs in float32.
      teacher: the teacher's vectors of the same texts.

    Returns:
      Mean over the elements of each pair, >= 0. At most 4 / d for unit vectors, so use a large weight.

    Source:
      Reimers and Gurevych 2020, arXiv:2004.09813, equation 1.
      Parity: sentence-transformers MSELoss, which is EmbedDistillLoss(distance_metric="mse").

    Example:
      >>> embed_mse(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]])).tolist()
      [12.5]
    """
    return jnp.square(float32(student) - float32(teacher)).mean(axis=-1)


def embed_kl(student: Float[Array, "*b d"], teacher: Float[Array, "*b d"], *, temperature: float) -> Float[Array, "*b"]:
    """Treat each vector's elements as logits and match the distributions.

    Adding a constant to all elements of a vector changes nothing. The factor T^2 keeps the size of the gradient nearly
    independent of the temperature, which then only decides how much the largest elements count.
        loss = T^2 KL(softmax(t / T) || softmax(s / T))

    Args:
      student: vectors projected to the teacher's width, any float; maths runs in float32.
      teacher: the teacher's vectors of the same texts; they get no gradient.
      temperature: T, > 0; 1 by default. About 1 / sqrt(d) gives the elements of unit vectors a spread of one.

    Returns:
      Divergence of each pair in nats, times T^2; >= 0.

    Source:
      Hinton et al. 2015, arXiv:1503.02531, section 2, over embedding dimensions in place of classes.
      Parity: torch.nn.functional.kl_div(log_softmax(s / T), softmax(t / T)) * T^2, summed over elements.

    Example:
      >>> round(float(embed_kl(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 1.0]]), temperature=1.0)[0]), 4)
      0.1109
    """
    s, t = logits_of(float32(student), temperature), logits_of(float32(teacher), temperature)
    of_student, of_teacher = (jax.nn.logsumexp(x, axis=-1, keepdims=True) for x in (s, t))
    return kl_terms(s, of_student, t, of_teacher).sum(axis=-1) * temperature**2
