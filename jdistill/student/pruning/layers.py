"""Which layers to keep."""

from collections.abc import Sequence

import numpy as np

from jdistill.config import UserError


def kept_layers(wanted: Sequence[int] | int, depth: int) -> list[int]:
    """The numbers of the layers to keep, from a list or how many.

    So many are evenly spaced, the first and the last among them: `i (depth - 1) / (count - 1)`, to the nearest integer
    and from a half to the even one. Of 6 layers 3 are 0, 2, 5 and 2 are 0, 5; of 12 layers 6 are 0, 2, 4, 7, 9, 11. One
    alone is the first.

    Args:
      wanted: the layers, or how many.
      depth: of the model.
    Raises:
      UserError: if there are not so many.
    Source:
      The 6 of 12 are those of which DistilBERT began (Sanh et al. 2019, arXiv:1910.01108). Gandhi et al. 2023
      (Distil-Whisper), arXiv:2311.00430, section 4, space them evenly too, and cut fractions off instead of rounding.
    """
    if not isinstance(wanted, int):
        return list(wanted)
    if depth and not 1 <= wanted <= depth:
        raise UserError(
            f"student.keep_layers: is {wanted}, but the model has {depth} layers. Give a number from 1 to {depth}, or "
            "a list of layers."
        )
    return [int(layer) for layer in np.linspace(0, max(depth - 1, 0), wanted).round()]
