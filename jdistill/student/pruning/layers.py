"""Selecting which layers to keep."""

from collections.abc import Sequence

import numpy as np

from jdistill.config import UserError


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
