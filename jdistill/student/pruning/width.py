"""Pruning the hidden size: which directions of the residual stream to keep."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jdistill.student.pruning.importance import largest
from jdistill.student.pruning.observe import Moments


def important_dimensions(stream: Sequence[Moments], width: int) -> Float[np.ndarray, "d k"]:
    """The columns of the identity at the `width` dimensions with the largest activations.

    Args:
      stream: moments of the residual stream at several depths, weighted equally.
      width: number of dimensions to keep.

    Source:
      Muralidharan et al. 2024 (Minitron), arXiv:2407.14679, section 2.2.
    """
    importance = np.zeros(len(stream[0].total))
    for moments in stream:
        size = np.sqrt(np.diag(moments.second))
        importance += size / size.sum()
    return np.eye(len(importance))[:, largest(importance, width)]


def principal_directions(stream: Sequence[Moments], width: int, *, centred: bool) -> Float[np.ndarray, "d k"]:
    """A basis of the principal subspace of the stream, as close as possible to its most important dimensions.

    The subspace belongs to the largest eigenvalues of the mean second moment. Matrices work with any basis of it, but
    norms scale each dimension separately, so the basis that rotates the dimensions least is chosen (Procrustes). If
    nothing is cut, it is the identity. With `centred`, the direction of the mean, `1 / sqrt(d)`, is kept and maps to
    that of the new mean, so norms that subtract the mean subtract the same one in the new basis.

    Args:
      stream: moments of the residual stream at several depths, weighted equally.
      width: number of dimensions to keep.
      centred: whether norms subtract the mean.

    Source:
      Ashkboos et al. 2024 (SliceGPT), arXiv:2401.15024, section 3, but with one rotation for all layers, since standard
      model formats have no rotation between layers. Schoenemann 1966, "A generalized solution of the orthogonal
      Procrustes problem".
    """
    C = sum((moments.second / np.trace(moments.second) for moments in stream), np.zeros(()))
    near = important_dimensions(stream, width)
    d = len(near)
    mean = np.full((d, 1), d**-0.5) if centred else np.zeros((d, 0))
    new_mean = np.full((width, 1), width**-0.5) if centred else np.zeros((width, 0))
    rest = np.eye(d) - mean @ mean.T
    vectors = np.linalg.eigh(rest @ C @ rest)[1][:, ::-1]
    subspace = vectors[:, : width - mean.shape[1]]
    left, _, right = np.linalg.svd(subspace.T @ near @ (np.eye(width) - new_mean @ new_mean.T), full_matrices=False)
    return mean @ new_mean.T + subspace @ left @ right


def table_directions(table: Float[np.ndarray, "v d"], width: int) -> Float[np.ndarray, "d k"]:
    """The principal directions of a table of vectors, not centred, largest first.

    Without centring, cosines of texts are preserved up to what the cut loses, and exactly if the rank of the table is
    at most `width`.

    Args:
      table: one vector per token.
      width: number of dimensions to keep.

    Source:
      As in model2vec (Tulkens and van Dongen 2024), which also subtracts the mean.
    """
    wide = table.astype(np.float64)
    return np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :width]
