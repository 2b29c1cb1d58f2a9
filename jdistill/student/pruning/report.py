"""The number of parameters of a student, for reports."""

from collections.abc import Mapping
from typing import Any

import jax

from jdistill.student.weights import flatten


def parameters_of(params: Mapping[str, Any]) -> str:
    """`22.57M parameters, 11.72M of them words`.

    Args:
      params: a student's parameters. The projection and LoRA, which a finished student does not have, are not counted.
    """
    finished = {name: tree for name, tree in params.items() if name not in ("projection", "lora")}
    total = sum(x.size for x in jax.tree.leaves(finished))
    words = sum(x.size for path, x in flatten(params["encoder"]).items() if path in ("words", "embeddings.words"))
    return f"{total / 1e6:.2f}M parameters, {words / 1e6:.2f}M of them words"
