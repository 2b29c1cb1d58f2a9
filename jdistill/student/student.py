"""A Student: everything about the model except its weights, which are a separate dict of arrays."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from jdistill.config import UserError, parse
from jdistill.folders.prompts import NAMES
from jdistill.student import weights
from jdistill.student.config import Architecture, GivenPrompts, Prompts
from jdistill.student.encoders import EncoderConfig
from jdistill.student.encoders.base import Computing
from jdistill.student.head import Normalize, apply_head, head_width
from jdistill.student.lora import merge_lora, merged_encoder
from jdistill.student.packing import TokenRows, rows_of
from jdistill.student.pooling import is_sparse, pool, pooled_width
from jdistill.student.projection import project
from jdistill.student.tokenizer import Tokenizer
from jdistill.types import Tokens

NO_LIMIT = 1_000_000
"""`max_length` of a student that never truncates, for callers that need a number."""


@dataclass(frozen=True, eq=False)
class Student:
    """Architecture and tokenizer. Compared by identity, so it can be a static argument of `jax.jit`."""

    config: Architecture
    tokenizer: Tokenizer
    _graph: nnx.GraphDef = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.tokenizer is not None:  # `jdistill plan` needs no texts, and passes no tokenizer
            object.__setattr__(self, "tokenizer", self.tokenizer.within(self.config.encoder.vocab_size))
        module = nnx.eval_shape(lambda: make_module(self.config, jax.random.key(0)))
        # Frozen dataclasses allow no assignment. The graph is made without computing any parameter.
        object.__setattr__(self, "_graph", nnx.split(module)[0])

    @property
    def width(self) -> int:
        """Width `d` of the vectors, behind the head."""
        return head_width(self.config.head, pooled_width(self.config.pooling, self.config.encoder))

    @property
    def sparse(self) -> bool:
        """Whether vectors have a weight for each token of the vocabulary, most of them zero."""
        return is_sparse(self.config.pooling) and all(isinstance(module, Normalize) for module in self.config.head)

    @property
    def prompts(self) -> Prompts:
        """Text prepended to queries and to documents."""
        return self.config.prompts

    @property
    def all_prompts(self) -> dict[str, str]:
        """Name -> prompt: `query` and `document` as used in training, and the other prompts of `init`."""
        inherited, sides = self.config.inherited.prompts, self.prompts.model_dump()
        changed = self.prompts.document != GivenPrompts().resolved(inherited).document
        names = NAMES["document"] if changed else ()
        return {**{name: sides["document"] if name in names else text for name, text in inherited.items()}, **sides}

    @property
    def max_length(self) -> int:
        """Texts are truncated to this many tokens, special tokens included."""
        return NO_LIMIT if self.config.max_length is None else self.config.max_length

    def prompt_token_count(self, prompt: str) -> int:
        """How many tokens pooling skips at the start of a text with this prompt, special tokens included."""
        return 0 if self.config.include_prompt or not prompt else self.tokenizer.prompt_length(prompt)

    @property
    def normalizes(self) -> bool:
        """Whether vectors have unit length."""
        return bool(self.config.head) and isinstance(self.config.head[-1], Normalize)

    @property
    def layers(self) -> int:
        """Depth of the encoder; 0 if it has no layers."""
        return self.config.encoder.depth

    def encode(self, params: PyTree[Array], tokens: Tokens, *, dropout_key: Array | None = None) -> Float[Array, "n d"]:
        """One float32 vector per text, pooled, with unit length if the student normalizes.

        Args:
          params: `{"encoder": ..., "lora": ..., "pooling": ..., "head": ...}`; other keys are ignored.
          tokens: arrays `[n, l]`.
          dropout_key: one key, or one per row `[n]` unless rows are packed; None disables dropout.
        """
        return self.encode_layers(params, tokens, (self.layers,), dropout_key=dropout_key)[self.layers]

    def encode_layers(
        self, params: PyTree[Array], tokens: Tokens, layers: Sequence[int], *, dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "n d"]]:
        """What `encode` would return if the encoder ended after each of `layers`.

        Args:
          params: as in `encode`.
          tokens: arrays `[n, l]`. If they contain hidden states, the encoder does not run.
          layers: numbers of layers to run, from 0 (embeddings only) to `self.layers`. With given hidden states, only
            `self.layers` is possible.
          dropout_key: as in `encode`.
        """
        rows, params = rows_of(tokens), merge_lora(self.config.lora, params)
        if tokens.hidden is None:
            hidden = self._encoder(params)(rows, layers=tuple(layers), dropout_key=dropout_key)
        elif {*layers} == {self.layers} and tokens.packed is None:
            hidden = {self.layers: tokens.hidden}
        else:
            raise ValueError(f"cached hidden states are padded and of the last layer only; got layers {layers}")
        return {layer: self._pooled(params, hidden[layer], rows, tokens.prompt) for layer in layers}

    def hidden_states(self, params: PyTree[Array], tokens: Tokens) -> Float[Array, "n l d"]:
        """The encoder's last hidden states, one vector per token, as in `Tokens.hidden`.

        Args:
          params: as in `encode`.
          tokens: arrays `[n, l]`, not packed.
        """
        encoder = self._encoder(merge_lora(self.config.lora, params))
        return encoder(rows_of(tokens), layers=(self.layers,))[self.layers]

    def _encoder(self, params: PyTree[Array]) -> Any:
        return nnx.merge(self._graph, params["encoder"])

    def _pooled(
        self, params: PyTree[Array], hidden: Float[Array, "r p d"], rows: TokenRows, prompts: Int[Array, " n"] | None
    ) -> Float[Array, "n d"]:
        config, own = self.config, params.get("pooling", {})
        pooled = pool(hidden, rows, config.pooling, own, config.encoder, params["encoder"], prompts)
        return apply_head(config.head, params.get("head", {}), pooled)

    def project(self, params: PyTree[Array], embeddings: Float[Array, "n d"], teacher: str) -> Float[Array, "n t"]:
        """The student's vectors in a teacher's space; unchanged if the student has no projection to it."""
        if teacher not in self.config.projections:
            return embeddings
        return project(params["projection"][teacher], embeddings)


def make_module(config: Architecture, key: Array) -> nnx.Module:
    """The encoder with random parameters."""
    return config.encoder.make_module(config.computing, rngs=nnx.Rngs(params=key))


def random_encoder(config: Architecture, key: Array) -> dict[str, Any]:
    """Random parameters of the encoder, as nested dicts."""
    # One compiled program instead of an operation per parameter.
    return jax.jit(lambda k: nnx.to_pure_dict(nnx.state(make_module(config, k), nnx.Param)))(key)


def encoder_shapes(encoder: EncoderConfig) -> dict[str, Any]:
    """The shapes of an encoder's parameters, as nested dicts."""
    computing = Computing(jnp.dtype("float32"))
    module = nnx.eval_shape(lambda: encoder.make_module(computing, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


def to_hf_tensors(student: Student, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The encoder's weights under their Hugging Face names, float32, with LoRA merged.

    `student.config.encoder.to_hf()` is the config.
    """
    return weights.to_hf(student.config.encoder.weights(), merged_encoder(student.config.lora, params))


def save_architecture(student: Student, folder: str | Path) -> None:
    """Write everything except the weights: `student.json` and the tokenizer's files."""
    folder = Path(folder)
    student.tokenizer.save(folder)
    text = json.dumps(student.config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    (folder / "student.json").write_text(text, encoding="utf-8")


def load_architecture(folder: str | Path) -> Student:
    """Read a student that `save_architecture` wrote.

    Raises:
      UserError: if the folder has no `student.json`, or it is invalid.
    """
    path = Path(folder) / "student.json"
    if not path.is_file():
        raise UserError(f"{folder}: has no student.json. Expected the architecture folder of a run.")
    config = parse(Architecture, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    return Student(config, Tokenizer.from_folder(folder, special_tokens=config.encoder.special_tokens))
