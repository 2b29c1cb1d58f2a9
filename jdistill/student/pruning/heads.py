"""Selecting which attention heads of each layer to keep."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jdistill.student.pruning.importance import group_importance, largest
from jdistill.student.pruning.observe import Moments
from jdistill.student.pruning.sizes import Sizes


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
        return HeadChoice((shared[:, None] * group + np.arange(group)).ravel(), shared)
    queries = [g * group + largest(each, new.heads // new.shared) for g, each in enumerate(by_group)]
    return HeadChoice(np.concatenate(queries), np.arange(old.shared))
