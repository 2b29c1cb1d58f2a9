"""Sigmoid contrastive loss: classify every query-document pair independently as matching or not."""

__all__ = ["Sigmoid", "sigmoid"]

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from typing_extensions import override

from jdistill.losses.base import Streamed, local_candidate_ids, local_candidates, queries_of
from jdistill.losses.blocks import SINGLE_DEVICE, sum_over
from jdistill.losses.maths import matmul, normalise
from jdistill.losses.temperature import Learned, Temperature, temperature_of, temperature_parameters
from jdistill.types import CandidateExchange, LossInputs

BIAS = "bias"


class Sigmoid(Streamed):
    """Binary cross-entropy of every query-document pair of the batch, hard negatives included (SigLIP)."""

    kind: Literal["sigmoid"] = "sigmoid"
    papers = ("arXiv:2303.15343",)
    temperature: Temperature = Learned(start=0.1)
    """Divides the cosines: `{start, min, max}` to learn it, as SigLIP does from 0.1, or a fixed number."""
    bias: float = -10.0
    """Initial value of the learned bias, which is added to the logits. With minus the log of the number of candidates
    or less, most pairs start out as negative, as nearly all are."""

    @override
    def parameters(self) -> dict[str, Array]:
        return {**temperature_parameters(self.temperature), BIAS: jnp.float32(self.bias)}

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Sum of each row over its candidates.

        Raises:
          UserError: if the rows are plain texts.
        """
        side = inputs.student
        queries = queries_of(side.queries, self.kind)
        return sigmoid(
            queries,
            local_candidates(side.documents, side.negatives),
            inputs.rows,
            temperature=temperature_of(self.temperature, inputs.parameters),
            bias=inputs.parameters[BIAS],
            block=self.block,
            columns=local_candidate_ids(inputs),
            sweep=inputs.sweep,
        )


def sigmoid(
    queries: Float[Array, "b d"],
    candidates: Float[Array, "c d"],
    positives: Int[Array, " b"],
    *,
    temperature: float | Float[Array, ""],
    bias: float | Float[Array, ""],
    block: int = 512,
    columns: Int[Array, " c"] | None = None,
    sweep: CandidateExchange = SINGLE_DEVICE,
) -> Float[Array, " b"]:
    """Binary classification of every query-document pair, without a softmax.

    Pairs are independent of each other, so small batches lose little, and a false negative costs only its own pair.
        loss_i = -sum_j log sigmoid(z_ij (cos(q_i, c_j) / temperature + bias)),   z_ij = 1 for the own document, else -1

    Args:
      queries: of this shard's rows, `[b, d]`, any float; maths runs in float32.
      candidates: documents of the whole batch, hard negatives included, `[c, d]`; or this device's.
      positives: column of each row's own document, `[b]`.
      temperature: divides the cosines; dimensionless, > 0.
      bias: added to the logits.
      block: candidates scored at a time; affects memory and speed only.
      columns: index of each candidate in the whole batch, `[c]`; by default 0, 1, ...
      sweep: pairs the rows with the candidates of all devices.

    Returns:
      Sum over the candidates of each row in nats, `[b]`, >= 0; the mean over rows is the paper's loss.

    Source:
      Zhai et al. 2023, arXiv:2303.15343, equation 1 and algorithm 1; their t is 1 / temperature, their b the bias.
      Parity: algorithm 1 written out in torch.

    Example:
      >>> value = sigmoid(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0, bias=0.0)
      >>> print(value.round(4))  # log(1 + 1/e) + log 2
      [1.0064 1.0064]
    """
    shared = jnp.asarray(temperature, jnp.float32), jnp.asarray(bias, jnp.float32)
    columns = jnp.arange(candidates.shape[0]) if columns is None else columns
    rows = normalise(queries), positives
    return sum_over(surprise, rows, (normalise(candidates), columns), shared, block=block, sweep=sweep)


def surprise(
    rows: tuple[Float[Array, "b d"], Int[Array, " b"]],
    candidates: tuple[Float[Array, "k d"], Int[Array, " k"]],
    shared: tuple[Float[Array, ""], Float[Array, ""]],
) -> Float[Array, "b k"]:
    """`-log sigmoid` of the signed logit of every pair."""
    (queries, positives), (documents, columns), (temperature, bias) = rows, candidates, shared
    logits = matmul(queries, documents.T) / temperature + bias
    # -log sigmoid(x) = log(1 + exp(-x)) = softplus(-x), with x the logit of the own document, minus the logit of
    # others.
    return jax.nn.softplus(jnp.where(positives[:, None] == columns[None], -logits, logits))
