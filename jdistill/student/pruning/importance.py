"""Which heads, neurons and dimensions matter: by what they add to the output over a sample."""

import numpy as np
from jaxtyping import Float, Int

from jdistill.student.pruning.observe import Moments


def group_importance(
    moments: Moments, kernel: Float[np.ndarray, "w d"], size: int, *, biased: bool
) -> Float[np.ndarray, " groups"]:
    """How much each group of `size` neighbouring inputs adds to the output: the mean square of its contribution.

        I_g = E ||x_g W_g||^2 = tr(W_g^T C_g W_g)

    With a bias that can take a constant, only what varies counts: `C` is the covariance, else the second moment.

    Args:
      moments: of the input.
      kernel: the matrix that reads it.
      size: inputs in a group: the width of a head, or 1 for neurons.
      biased: whether the matrix has a bias.
    Source:
      Heads and neurons by the norm of what they add, as Muralidharan et al. 2024 (Minitron), arXiv:2407.14679, section
      2.2, here of the contribution and not of the activation alone; without its constant part as An et al. 2023
      (FLAP), arXiv:2312.11983.
    """
    C = moments.covariance if biased else moments.second
    groups = len(kernel) // size
    starts = np.arange(groups)[:, None] * size + np.arange(size)
    blocks = C[starts[:, :, None], starts[:, None, :]]
    rows = kernel[starts]
    return np.einsum("gij,gjd,gid->g", blocks, rows, rows)


def largest(importance: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " k"]:
    """Numbers of the `count` most important, ascending; of equal ones the first."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])
