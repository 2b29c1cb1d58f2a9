"""Importance of heads and neurons: their contribution to the output over a sample."""

import numpy as np
from jaxtyping import Float, Int

from jdistill.student.pruning.observe import Moments


def group_importance(
    moments: Moments, kernel: Float[np.ndarray, "w d"], size: int, *, biased: bool
) -> Float[np.ndarray, " groups"]:
    """Mean squared contribution to the output of each group of `size` consecutive inputs.

        I_g = E ||x_g W_g||^2 = tr(W_g^T C_g W_g)

    `C` is the second moment, or the covariance if a bias can absorb the constant part of the contribution.

    Args:
      moments: of the input.
      kernel: the matrix applied to the input.
      size: inputs per group: the width of a head, or 1 for neurons.
      biased: whether the matrix has a bias.

    Source:
      As Muralidharan et al. 2024 (Minitron), arXiv:2407.14679, section 2.2, but of the contribution instead of the
      activation; without its constant part as in An et al. 2023 (FLAP), arXiv:2312.11983.
    """
    C = moments.covariance if biased else moments.second
    groups = len(kernel) // size
    starts = np.arange(groups)[:, None] * size + np.arange(size)
    blocks = C[starts[:, :, None], starts[:, None, :]]
    rows = kernel[starts]
    return np.einsum("gij,gjd,gid->g", blocks, rows, rows)


def largest(importance: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " k"]:
    """Indices of the `count` largest values, ascending; ties go to the lower index."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])
