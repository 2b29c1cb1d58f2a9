"""Distil large text-embedding models into small ones with JAX.

    >>> model = jdistill.load("runs/my-student")            # doctest: +SKIP
    >>> model.encode(["some text"]).shape                   # doctest: +SKIP
    (1, 384)

The pipeline: text -> teacher -> store -> loader -> student -> losses -> train -> checkpoint -> evaluate -> export.
Heavy dependencies are imported on first use.
"""

from typing import TYPE_CHECKING, Any

from jdistill.backend import set_cpu_flags

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load", "quantize", "value_ranges"]

if TYPE_CHECKING:
    from jdistill.model import Model, load
    from jdistill.quantization import quantize, value_ranges


set_cpu_flags()


def __getattr__(name: str) -> Any:
    if name in ("load", "Model"):
        from jdistill import model

        return getattr(model, name)
    if name in ("quantize", "value_ranges"):
        from jdistill import quantization

        return getattr(quantization, name)
    raise AttributeError(f"module 'jdistill' has no attribute {name!r}")
