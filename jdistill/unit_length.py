"""Unit length of embeddings in NumPy; the students' own is `student.head.normalize`, in JAX."""

import numpy as np
from jaxtyping import Float


def unit_length(vectors: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n d"]:
    """Divide each vector by its Euclidean length, so that dot products are cosines; zero vectors stay zero.

        x / max(|x|, 1e-12)

    The result has the input's floating dtype.

    Source:
      Parity: torch.nn.functional.normalize.
    """
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
