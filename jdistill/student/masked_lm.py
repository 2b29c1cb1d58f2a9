"""The head of a masked language model, which maps hidden states to scores of the vocabulary.

In all architectures it is `norm(act(h W + b)) E^T + c`, where `E` is usually tied to the word embeddings; only tensor
names differ, which each encoder's `masked_lm()` gives. Parameters that a file lacks, such as ModernBERT's biases, are
absent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jdistill.config import UserError
from jdistill.student.layers import ACTIVATIONS, dense, layer_norm
from jdistill.student.weights import flatten, nest

STD = 0.02
"""Standard deviation of the weights of a randomly initialised head."""


@dataclass(frozen=True)
class MaskedLM:
    """The head of an architecture, with the names of its tensors in a Hugging Face file."""

    architecture: str
    """Class in transformers."""
    dense: str
    """Name of `W` and `b`, without `.weight` and `.bias`."""
    norm: str
    """Name of the norm's scale and bias, likewise."""
    bias: str
    """Name of `c`; if absent, it may be the decoder's `.bias`, to which transformers ties it."""
    decoder: str
    """Name of `E`; if absent or equal to the word embeddings, it is tied to them."""
    activation: str
    """Activation, named as Hugging Face's `hidden_act`."""
    epsilon: float
    """Epsilon of the norm."""
    biased: bool = True
    """Whether a random head has `b` and the norm's bias."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Key of `config.json` that says whether a parameter exists -> its path."""

    def init(self, width: int, size: int, key: Array) -> dict[str, Any]:
        """Random parameters `dense: {kernel [d, d], bias [d]}, norm: {scale [d], bias [d]}, bias [v]`, tied."""
        zeros = {"bias": jnp.zeros(width, jnp.float32)} if self.biased else {}
        return {
            "dense": {"kernel": STD * jax.random.normal(key, (width, width), jnp.float32), **zeros},
            "norm": {"scale": jnp.ones(width, jnp.float32), **zeros},
            "bias": jnp.zeros(size, jnp.float32),
        }

    def read(self, tensors: Mapping[str, np.ndarray], words: str, *, where: str) -> dict[str, Any] | None:
        """Parameters from a model's tensors; None if the model has no such head.

        Args:
          tensors: all tensors of the model, as named in its file.
          words: name of the word embeddings, without the model's prefix.
          where: the model's folder, for error messages.

        Raises:
          UserError: if the head is incomplete, or has NaN or infinite values.
        """
        names = self._names
        if self.bias not in tensors:
            names["bias"] = self.decoder.removesuffix(".weight") + ".bias"
        found = {path: tensors[key] for path, key in names.items() if key in tensors}
        if not found:
            return None
        missing = [key for path, key in names.items() if path not in found and path not in self._may_lack]
        if missing:
            raise UserError(
                f"{where}: has only part of the head of a {self.architecture}; {', '.join(missing)} missing. "
                "Use the folder of a complete masked language model."
            )
        unusable = [names[path] for path, value in found.items() if not np.isfinite(value).all()]
        if unusable:
            raise UserError(f"{where}: {', '.join(unusable)}: NaN or infinite values. Copy the model again.")
        # With or without the model's prefix.
        table = next((value for name, value in tensors.items() if name.endswith(words)), None)
        if table is None:
            raise UserError(f"{where}: has no {words}. Use the folder of a complete masked language model.")
        # Files may repeat the word embeddings as the decoder; as another parameter they would be trained apart.
        if self.decoder in tensors and not np.array_equal(tensors[self.decoder], table):
            found["decoder"] = tensors[self.decoder]
        kernel = {"dense.kernel": found["dense.kernel"].T}
        return nest({path: np.ascontiguousarray(x, np.float32) for path, x in {**found, **kernel}.items()})

    def write(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The tensors of `params` under their Hugging Face names."""
        flat = {path: np.asarray(value, np.float32) for path, value in flatten(params).items()}
        flat["dense.kernel"] = np.ascontiguousarray(flat["dense.kernel"].T)
        names = {**self._names, "decoder": self.decoder}
        tensors = {names[path]: value for path, value in flat.items()}
        if "decoder" in flat and "bias" in flat:  # transformers ties the two biases only where it ties the decoder
            tensors[self.decoder.removesuffix(".weight") + ".bias"] = flat["bias"]
        return tensors

    def config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The entries of `config.json` for the head, in addition to the encoder's."""
        flat = flatten(params)
        flags = {key: path in flat for key, path in self.flags.items()}
        return {"architectures": [self.architecture], "tie_word_embeddings": "decoder" not in flat, **flags}

    def transform(self, hidden: Float[Array, "r p d"], params: Mapping[str, Any]) -> Float[Array, "r p d"]:
        """`norm(act(h W + b))`, the input of the decoder."""
        inner = ACTIVATIONS[self.activation](dense(hidden, params["dense"]["kernel"], params["dense"].get("bias")))
        scale = params["norm"]["scale"]
        return layer_norm(inner, scale, params["norm"].get("bias", jnp.zeros_like(scale)), self.epsilon)

    @property
    def _may_lack(self) -> set[str]:
        """Paths of optional parameters."""
        return {*self.flags.values(), *(() if self.biased else ("norm.bias",))}

    @property
    def _names(self) -> dict[str, str]:
        """Path of a parameter -> name of its tensor."""
        return {
            "dense.kernel": f"{self.dense}.weight",
            "dense.bias": f"{self.dense}.bias",
            "norm.scale": f"{self.norm}.weight",
            "norm.bias": f"{self.norm}.bias",
            "bias": self.bias,
        }
