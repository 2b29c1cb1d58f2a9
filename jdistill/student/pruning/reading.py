"""What a matrix reads once less is left of its input: of what is gone, the best guess from what is left."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jdistill.student.pruning.observe import Moments

RIDGE = 1e-4
"""Added to variances, as a share of their mean: directions that the sample hardly has are not guessed from."""


class Reading(NamedTuple):
    """`x ~ y B + c` for what is left, `y = x P`, of an input `x`. A matrix `W` that read `x` reads `y` as `B W`."""

    back: Float[np.ndarray, "k w"]
    """B."""
    shift: Float[np.ndarray, " w"]
    """c; zeros where the reader has no bias that could take it."""


def reading(moments: Moments, encode: Float[np.ndarray, "w k"], *, biased: bool) -> Reading:
    """The linear map that loses least of an input, in the mean square over a sample.

        B = P^T + (P^T C P + ridge)^-1 P^T C (I - P P^T),   c = mean (I - P B)

    where `C` is the covariance of the input, or its second moment without a bias. Where `P` loses nothing, or what it
    loses is always zero, `B` is exactly `P^T`.

    Args:
      moments: of the input.
      encode: P, with orthonormal columns: a rotation and a cut, or the columns of the identity that are kept.
      biased: whether the reader has a bias.
    Source:
      Least squares as in Kwon et al. 2022, arXiv:2204.09656, section 4.3, there for one factor per head and neuron;
      the shift as in An et al. 2023 (FLAP), arXiv:2312.11983.
    """
    C = moments.covariance if biased else moments.second
    lost = C - (C @ encode) @ encode.T
    left = encode.T @ C @ encode
    ridge = RIDGE * max(np.trace(C) / len(C), 1e-30) * np.eye(len(left))
    back = encode.T + np.linalg.solve(left + ridge, encode.T @ lost)
    shift = moments.mean - (moments.mean @ encode) @ back if biased else np.zeros(len(C))
    return Reading(back, shift)
