"""Which layers, heads and neurons to keep."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jdistill.config import UserError
from jdistill.student.pruning.activations import Moments
from jdistill.student.pruning.sizes import Sizes


def kept_layers(wanted: Sequence[int] | int, depth: int) -> list[int]:
    """The indices of the layers to keep, from a list or a number of layers.

    A number selects evenly spaced layers including the first and the last: `i (depth - 1) / (count - 1)`, rounded half
    to even. 3 of 6 layers are 0, 2, 5, and 2 are 0, 5; 6 of 12 layers are 0, 2, 4, 7, 9, 11; 1 is layer 0.

    Args:
      wanted: the layers, or how many.
      depth: number of layers of the model.

    Raises:
      UserError: if the model has fewer layers.

    Source:
      DistilBERT starts from the same 6 of 12 (Sanh et al. 2019, arXiv:1910.01108). Gandhi et al. 2023 (Distil-Whisper),
      arXiv:2311.00430, section 4, also space layers evenly, but round down.
    """
    if not isinstance(wanted, int):
        return list(wanted)
    if depth and not 1 <= wanted <= depth:
        raise UserError(
            f"student.keep_layers: is {wanted}, but the model has {depth} layers. Choose a number from 1 to "
            f"{depth}, or list the layers."
        )
    return [int(layer) for layer in np.linspace(0, max(depth - 1, 0), wanted).round()]


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
    # [groups size] indices, for the diagonal blocks `[groups size size]` of C
    starts = np.arange(groups)[:, None] * size + np.arange(size)
    blocks = C[starts[:, :, None], starts[:, None, :]]
    rows = kernel[starts]
    return np.einsum("gij,gjd,gid->g", blocks, rows, rows)


def largest(importance: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " k"]:
    """Indices of the `count` largest values, ascending; ties go to the lower index."""
    return np.sort(np.argsort(-importance, kind="stable")[:count])


class HeadChoice(NamedTuple):
    """Indices of the heads that a layer keeps, ascending."""

    queries: Int[np.ndarray, " h"]
    shared: Int[np.ndarray, " s"]
    """Key-value heads; neighbouring query heads still share one."""


def choose_heads(
    flat: Mapping[str, Float[np.ndarray, "..."]], moments: Mapping[str, Moments], old: Sizes, new: Sizes, depth: int
) -> list[HeadChoice]:
    """The heads that contribute most to the attention output, chosen per layer.

    If all layers share a table with a column per head, such as MPNet's relative bias, all keep the same heads: those
    with the largest share of the contribution, summed over layers.

    Args:
      flat: parameters by path.
      moments: moments of the input of each `layers.<i>.out`.
      old: sizes before.
      new: sizes after, with fewer heads.
      depth: number of layers.
    """
    importance = []
    for i in range(depth):
        out = f"layers.{i}.out"
        biased = f"{out}.bias" in flat
        importance.append(group_importance(moments[out], flat[f"{out}.kernel"], old.head_width, biased=biased))
    if "distance_bias" in flat:
        # As shares of their layer, so that layers with large activations do not decide alone.
        together = sum((each / max(each.sum(), 1e-30) for each in importance), np.zeros(old.heads))
        importance = [together] * depth
    return [_choice(each, old, new) for each in importance]


def _choice(importance: Float[np.ndarray, " heads"], old: Sizes, new: Sizes) -> HeadChoice:
    group = old.heads // old.shared
    if group == 1:
        queries = largest(importance, new.heads)
        return HeadChoice(queries, queries)
    by_group = importance.reshape(old.shared, group)
    if new.shared < old.shared:
        shared = largest(by_group.sum(1), new.shared)
        # Whole groups go.
        return HeadChoice((shared[:, None] * group + np.arange(group)).ravel(), shared)
    # As many of every group, so that all key heads stay in use by equally many query heads.
    queries = [g * group + largest(each, new.heads // new.shared) for g, each in enumerate(by_group)]
    return HeadChoice(np.concatenate(queries), np.arange(old.shared))
