"""The reference vectors that an export must reproduce: the student's own, or those in a teacher's space."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jdistill.export.config import ExportedProjection
from jdistill.export.hf import projected_to
from jdistill.model import Model
from jdistill.student.head import normalize


def reference_vectors(
    model: Model, texts: Sequence[str], *, projection: ExportedProjection = "drop", teacher: str | None = None
) -> dict[str, Float[np.ndarray, "n d"]]:
    """Vectors for `verify`: prompt name -> the model's vectors of all texts, as exported.

    Includes no prompt ("") and every non-empty prompt. `projection` and `teacher` are those of the export. Computed in
    full float32 precision: the default precision of GPUs and TPUs has errors of 1e-4, which would hide mistakes.
    """
    names = [name for name, prompt in model.student.prompts.model_dump().items() if prompt]
    with jax.default_matmul_precision("highest"):
        vectors = {"": model.encode(list(texts), prompt="")}
        vectors |= {name: model.encode(list(texts), prompt_name=name) for name in names}
        if projection == "drop":
            return vectors
        name = projected_to(model.student, teacher)
        return {prompt: _project(model, embeddings, name) for prompt, embeddings in vectors.items()}


def _project(model: Model, embeddings: Float[np.ndarray, "n d"], teacher: str) -> Float[np.ndarray, "n t"]:
    projected = model.student.project(model.params, jnp.asarray(embeddings), teacher)
    return np.asarray(normalize(projected) if model.student.normalizes else projected)
