"""A smaller hidden size: which directions of the residual stream to keep, and how norms are fitted to them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdistill.student.modules import LayerNorm, RMSNorm
from jdistill.student.pruning.activations import Moments, Sample
from jdistill.student.pruning.selection import largest


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
        # Root mean square of each dimension, relative to the sum over dimensions: all depths count the same.
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
    # Relative to the trace, so that all depths count the same.
    C = sum((moments.second / np.trace(moments.second) for moments in stream), np.zeros(()))
    near = important_dimensions(stream, width)
    d = len(near)
    mean = np.full((d, 1), d**-0.5) if centred else np.zeros((d, 0))
    new_mean = np.full((width, 1), width**-0.5) if centred else np.zeros((width, 0))
    # Projects out the direction of the mean, which is kept apart.
    rest = np.eye(d) - mean @ mean.T
    # `eigh` sorts ascending.
    vectors = np.linalg.eigh(rest @ C @ rest)[1][:, ::-1]
    subspace = vectors[:, : width - mean.shape[1]]
    # Procrustes: the rotation of the basis that is closest to `near` is U V^T of this product's decomposition.
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


def fitted_norms(
    flat: Mapping[str, Float[np.ndarray, "..."]], sample: Sample, encode: Float[np.ndarray, "d k"]
) -> dict[str, Float[np.ndarray, " k"]]:
    """Scale and bias, by path, with which norms of the pruned stream best approximate the old norms' output.

    Least squares over the sample, per dimension: `z s + b ~ y P`, where `z` is `x P` normalized, and `x` and `y` are
    input and output of the old norm. Norms without a bias have no `b`.

    Args:
      flat: parameters by path.
      sample: the old encoder with the texts to run on.
      encode: P.
    """
    norms, P = sample.norms(), jnp.asarray(encode, jnp.float32)

    def products(name: str, x: Float[Array, "n d"], y: Float[Array, "n d"]) -> dict[str, Array]:
        z, target = _normalised(norms[name], x @ P), y @ P
        return {"z": z, "y": target, "zz": z * z, "zy": z * target}

    sums = sample.along(list(norms), products)
    fitted: dict[str, Any] = {}
    for name, norm in norms.items():
        mean = {key: value / sums["count"] for key, value in sums[name].items()}
        shifts = f"{name}.bias" in flat
        centre = (mean["z"], mean["y"]) if shifts else (np.zeros(()), np.zeros(()))
        variance, along = mean["zz"] - centre[0] ** 2, mean["zy"] - centre[0] * centre[1]
        # A dimension that never varies gets the scale 0 instead of a division by zero.
        scale = along / np.maximum(variance, 1e-12)
        # Parameters of Gemma's norms are stored minus 1.
        fitted[f"{name}.scale"] = scale - (norm.offset if isinstance(norm, RMSNorm) else 0.0)
        if shifts:
            fitted[f"{name}.bias"] = centre[1] - scale * centre[0]
    return fitted


def _normalised(norm: LayerNorm | RMSNorm, x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    if isinstance(norm, LayerNorm):
        x = x - x.mean(-1, keepdims=True)
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + norm.epsilon)
