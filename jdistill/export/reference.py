"""The vectors that an export must reproduce: the student's own, or those in a teacher's space."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jdistill.export.config import Projection
from jdistill.export.hf import projected_to
from jdistill.student import Student
from jdistill.student.head import normalize


class Model(Protocol):
    """As much of `jdistill.model.Model` as is needed."""

    @property
    def student(self) -> Student:
        """The architecture."""
        ...

    @property
    def params(self) -> Any:
        """Its weights."""
        ...

    def encode(
        self, texts: list[str], *, prompt_name: str | None = None, prompt: str | None = None
    ) -> Float[np.ndarray, "n d"]:
        """One vector per text."""
        ...


def reference_vectors(
    model: Model, texts: Sequence[str], *, projection: Projection = "drop", teacher: str | None = None
) -> dict[str, Float[np.ndarray, "n d"]]:
    """What `verify` compares with: name of the prompt -> the model's vectors of all texts, as exported.

    Without a prompt (""), and with every prompt that is not empty. `projection` and `teacher` are those of the export.
    Products are computed in full float32: what GPUs and TPUs take by default is off by 1e-4, which would hide mistakes.
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
