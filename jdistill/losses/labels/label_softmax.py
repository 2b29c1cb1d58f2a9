"""Softmax over labels: classify the relation of a pair with a linear classifier on both vectors."""

__all__ = ["LabelSoftmax", "label_softmax"]

from collections.abc import Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from pydantic import Field, PositiveInt, field_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs, queries_of
from jdistill.losses.labels.row_labels import class_labels
from jdistill.losses.maths import absolute, float32, matmul
from jdistill.types import LossInputs

Feature = Literal["vectors", "difference", "product"]


class LabelSoftmax(LossConfig):
    """Cross-entropy of a classifier on the vectors of query and document, which is trained with the student."""

    kind: Literal["label_softmax"] = "label_softmax"
    papers = ("arXiv:1908.10084",)
    classes: Annotated[int, Field(ge=2)]
    """Number of labels, such as 3 for entailment, neutral and contradiction."""
    width: PositiveInt
    """Width of the student's vectors, which sets the size of the classifier. The classifier is a parameter of the
    run."""
    features: Annotated[tuple[Feature, ...], Field(min_length=1)] = ("vectors", "difference")
    """Input of the classifier: both vectors u and v (vectors), |u - v| (difference), the elementwise u v (product)."""

    @field_validator("features")
    @classmethod
    def _each_once(cls, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        if len(set(features)) < len(features):
            raise ValueError(f"{list(features)} names one twice. Name each once.")
        return features

    @override
    def needs(self) -> Needs:
        return Needs(batch=False)

    @override
    def parameters(self) -> dict[str, Array]:
        """The classifier, all zeros: every label is equally likely, and the first step changes the classifier only."""
        # `vectors` are two parts, u and v.
        parts = len(self.features) + ("vectors" in self.features)
        return {
            "kernel": jnp.zeros((parts, self.width, self.classes), jnp.float32),
            "bias": jnp.zeros(self.classes, jnp.float32),
        }

    @override
    def check_labels(self, rows: Mapping[str, int]) -> None:
        """Raise if there are no labels, or more than `classes`."""
        if not rows:
            class_labels(None, self.kind)
        if len(rows) > self.classes:
            shown = ", ".join(list(rows)[:8])
            raise UserError(
                f"classes is {self.classes}, but the rows have {len(rows)} labels: {shown}. Set it to {len(rows)}, or "
                "remove rows with placeholder labels, such as -1 in SNLI."
            )

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row; hard negatives are ignored.

        Raises:
          UserError: if the rows are plain texts or have no label, or the vectors are wider than the classifier.
        """
        queries, labels = queries_of(inputs.student.queries, self.kind), class_labels(inputs.labels, self.kind)
        width = queries.shape[1]
        if width > self.width:
            raise UserError(
                f"label_softmax: width is {self.width}, but the student's vectors have {width} elements. Set it to "
                f"{width}."
            )
        kernel, bias = inputs.parameters["kernel"], inputs.parameters["bias"]
        return label_softmax(queries, inputs.student.documents, labels, kernel, bias, features=self.features)


def label_softmax(
    queries: Float[Array, "b d"],
    documents: Float[Array, "b d"],
    labels: Int[Array, " b"],
    kernel: Float[Array, "p w c"],
    bias: Float[Array, " c"],
    *,
    features: tuple[Feature, ...] = ("vectors", "difference"),
) -> Float[Array, " b"]:
    """Learn vectors from which a linear classifier predicts the relation of two texts.

    How Sentence-BERT was trained on natural language inference. The classifier is not used after training. The loss
    does not make vectors of similar texts close, so losses that compare vectors, such as `info_nce`, have mostly
    replaced it.
        loss_i = -log softmax(sum_p f_p(u_i, v_i) W_p + bias)[y_i],   f = u, v, |u - v|, u v

    Args:
      queries: u of these rows, `[b, d]`, any float; maths runs in float32.
      documents: v of these rows, `[b, d]`.
      labels: the class of each row, `[b]`, from 0 to c - 1.
      kernel: W, one matrix per input part, in the order of the formula, `[p, w, c]`; for vectors truncated to a prefix,
        d < w, the first d rows are used.
      bias: of each class, `[c]`.
      features: input parts; `"vectors"` are two, u and v.

    Returns:
      Value of each row in nats, `[b]`, >= 0.

    Source:
      Reimers and Gurevych 2019, arXiv:1908.10084, section 3, the classification objective.
      Parity: sentence-transformers SoftmaxLoss in all its options.

    Example:
      >>> u, labels = jnp.eye(2), jnp.array([0, 2])
      >>> print(label_softmax(u, u, labels, jnp.zeros((3, 2, 3)), jnp.zeros(3)).round(4))  # log 3
      [1.0986 1.0986]
    """
    u, v = float32(queries), float32(documents)
    # The order of the formula, not that of `features`: the parts of the kernel belong to it.
    parts = {"vectors": (u, v), "difference": (absolute(u - v),), "product": (u * v,)}
    read = [part for name in parts if name in features for part in parts[name]]
    # sum_p f_p W_p as one product: features [b, p d] and kernel [p d, c].
    columns = kernel[:, : u.shape[1]].reshape(-1, kernel.shape[-1])
    logits = matmul(jnp.concatenate(read, axis=1), columns) + bias[None]
    own = jnp.take_along_axis(logits, labels[:, None], axis=1)
    # log(1 + sum of the others relative to the own label): precise where logits in the hundreds would cancel.
    others = jnp.where(labels[:, None] == jnp.arange(len(bias))[None], -jnp.inf, logits - own)
    return jax.nn.softplus(jax.nn.logsumexp(others, axis=1))
