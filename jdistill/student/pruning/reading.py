"""Least-squares compensation: adjusts a matrix to a reduced input, estimating what was removed from what is left."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jdistill.student.pruning.observe import Moments

RIDGE = 1e-4
"""Ridge as a fraction of the mean variance, so that directions with little variance in the sample are not used."""


class LeastSquaresFit(NamedTuple):
    """`x ~ y B + c` from the reduced input `y = x P`. So a matrix `W` applied to `x` becomes `B W` applied to `y`."""

    back: Float[np.ndarray, "k w"]
    """B."""
    shift: Float[np.ndarray, " w"]
    """c; zeros if the matrix has no bias to absorb it."""


def reading(moments: Moments, encode: Float[np.ndarray, "w k"], *, biased: bool) -> LeastSquaresFit:
    """The linear map that reconstructs an input with the least mean squared error over a sample.

        B = P^T + (P^T C P + ridge)^-1 P^T C (I - P P^T),   c = mean (I - P B)

    where `C` is the covariance of the input, or its second moment without a bias. If `P` loses nothing, or only
    dimensions that are always zero, `B` is exactly `P^T`.

    Args:
      moments: of the input.
      encode: P, with orthonormal columns: a rotation with a cut, or the kept columns of the identity.
      biased: whether the matrix has a bias.

    Source:
      Least squares as in Kwon et al. 2022, arXiv:2204.09656, section 4.3, where it is one factor per head and neuron;
      the shift as in An et al. 2023 (FLAP), arXiv:2312.11983.
    """
    C = moments.covariance if biased else moments.second
    lost = C - (C @ encode) @ encode.T
    left = encode.T @ C @ encode
    ridge = RIDGE * max(np.trace(C) / len(C), 1e-30) * np.eye(len(left))
    back = encode.T + np.linalg.solve(left + ridge, encode.T @ lost)
    shift = moments.mean - (moments.mean @ encode) @ back if biased else np.zeros(len(C))
    return LeastSquaresFit(back, shift)
