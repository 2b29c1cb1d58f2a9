"""A narrower residual stream: the directions that are kept of the vectors that go from layer to layer."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jdistill.student.pruning.importance import largest
from jdistill.student.pruning.observe import Moments


def important_dimensions(stream: Sequence[Moments], width: int) -> Float[np.ndarray, "d k"]:
    """The columns of the identity at the `width` dimensions with the largest activations.

    Args:
      stream: of the vectors at several depths, each counting the same.
      width: dimensions to keep.
    Source:
      Muralidharan et al. 2024 (Minitron), arXiv:2407.14679, section 2.2.
    """
    importance = np.zeros(len(stream[0].total))
    for moments in stream:
        size = np.sqrt(np.diag(moments.second))
        importance += size / size.sum()
    return np.eye(len(importance))[:, largest(importance, width)]


def principal_directions(stream: Sequence[Moments], width: int, *, centred: bool) -> Float[np.ndarray, "d k"]:
    """A basis of the principal directions of the stream that is as close as can be to its most important dimensions.

    The subspace is that of the largest eigenvalues of the mean second moment. Any basis of it will do for matrices; but
    norms scale every dimension by itself, so the one is taken that turns dimensions least (Procrustes). If nothing is
    cut, it is the identity. Norms that subtract the mean of a vector find the same mean in the new basis, if the
    direction of the mean is kept and becomes that of the new mean: so it is with `centred`.

    Args:
      stream: of the vectors at several depths, each counting the same.
      width: dimensions to keep.
      centred: whether norms subtract the mean.
    Source:
      Ashkboos et al. 2024 (SliceGPT), arXiv:2401.15024, section 3, with one rotation for all layers, since the layers
      of a model in a standard format have none of their own between them. Schoenemann 1966, "A generalized solution of
      the orthogonal Procrustes problem".
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
    """The principal directions of a table of vectors about the origin, largest first, so that angles stay as they are.

    Args:
      table: a vector for each token.
      width: dimensions to keep.
    Source:
      As model2vec (Tulkens and van Dongen 2024), which moves the vectors' mean to the origin besides; here a text's
      vector is as it was but for what the cut loses, and exactly so if the table has no higher rank.
    """
    wide = table.astype(np.float64)
    return np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :width]
