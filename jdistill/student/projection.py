"""The projection: a linear map from the student's space to a teacher's, used during training.

It is one of the student's parameters, so it is sharded, checkpointed and optimized with them. The export drops it or
writes it as a Dense module.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdistill.student.layers import dense


def make_projection(key: Array, width: int, teacher_width: int) -> dict[str, Array]:
    """Initial weights: `kernel [width, teacher_width]` and `bias [teacher_width]`, float32.

    The kernel is the identity for equal widths, otherwise random with orthonormal rows (or columns, if the teacher is
    narrower). So the map to a wider teacher preserves norms and angles. The bias is zero.
    """
    if width == teacher_width:
        kernel = jnp.eye(width, dtype=jnp.float32)
    else:
        kernel = jax.nn.initializers.orthogonal()(key, (width, teacher_width), jnp.float32)
    return {"kernel": kernel, "bias": jnp.zeros(teacher_width, jnp.float32)}


def project(projection: dict[str, Array], embeddings: Float[Array, "n d"]) -> Float[Array, "n t"]:
    """`embeddings W + b`."""
    return dense(embeddings, projection["kernel"], projection["bias"])
