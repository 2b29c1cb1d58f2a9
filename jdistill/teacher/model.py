"""A loaded teacher: encodes texts to float32 vectors.

torch and sentence-transformers are imported when a teacher is created, not when this module is imported.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from jdistill.config import UserError
from jdistill.folders.prompts import prompt_name
from jdistill.store import Prompted
from jdistill.teacher.config import TeacherConfig
from jdistill.teacher.describe import find_folder, hashes, is_commit, is_local
from jdistill.teacher.loading import load
from jdistill.unit_length import unit_length

FULL_BATCH = 512
"""A batch has at most as many tokens as `batch_size` texts of this length; batches of longer texts are smaller."""


class Teacher:
    """A sentence-transformers model, ready to embed.

    Args:
      config: the teacher.
      name: the teacher's name in the config, for messages.

    Raises:
      UserError: if the model cannot be loaded, or does not support the config.
    """

    def __init__(self, config: TeacherConfig, *, name: str = "teacher") -> None:
        self.config = config
        self._where = f"teachers.{name}"
        self._model = load(config, where=self._where)
        self._prompts = _resolve_prompts(config, self._model)
        modules = [type(module).__name__ for module in self._model]
        self._normalizes_itself = "Normalize" in modules
        if config.normalize is False and self._normalizes_itself:
            _remove_normalize(self._model)
            self._normalizes_itself = False
        self._normalize = self._normalizes_itself if config.normalize is None else config.normalize
        _set_max_length(self._model, config.max_length, self._where)
        if config.layer is not None:
            _end_after(self._model, config.layer, self._where)
        full = self._probed_width()
        if config.truncate_dim is not None and config.truncate_dim > full:
            raise UserError(
                f"{self._where}: truncate_dim is {config.truncate_dim}, but the model's width is {full}. Lower it."
            )
        self.width = config.truncate_dim or full
        """Width of each vector."""
        self.description = self._describe(modules)
        """Everything that determines the vectors, as JSON; the store records and compares it."""

    def encode(
        self, texts: Sequence[str], *, side: Literal["query", "document"] = "document"
    ) -> Float[np.ndarray, "n d"]:
        """Encode raw texts to float32 `[n, d]`, with the prompt of that side prepended.

        Raises:
          UserError: if a vector is not finite, naming its text.
        """
        return self.encode_prompted([Prompted(side, self._prompts[side], text) for text in texts])

    def encode_prompted(
        self, texts: Sequence[Prompted], *, advance: Callable[[int], None] = lambda n: None
    ) -> Float[np.ndarray, "n d"]:
        """Encode texts with given side and prompt; calls `advance` with the number of texts of each batch."""
        vectors = np.empty((len(texts), self.width), np.float32)
        groups: dict[tuple[Literal["query", "document"], str], list[int]] = {}
        for i, (side, prompt, _) in enumerate(texts):
            groups.setdefault((side, prompt), []).append(i)
        for (side, prompt), members in groups.items():
            for batch in self._batches(members, texts):
                vectors[batch] = self._finished(
                    self._forward([texts[i].text for i in batch], side, prompt), batch, texts
                )
                advance(len(batch))
        return vectors

    def _batches(self, members: list[int], texts: Sequence[Prompted]) -> Iterator[list[int]]:
        """Split the members into batches of similar length, to limit padding; batches of long texts are smaller."""
        left = sorted(members, key=lambda i: -len(texts[i].text))
        while left:
            # The longest of the rest, to which the batch is padded.
            tokens = self._tokens(texts[left[0]])
            size = max(min(self.config.batch_size, self.config.batch_size * FULL_BATCH // tokens), 1)
            yield left[:size]
            left = left[size:]

    def _tokens(self, text: Prompted) -> int:
        """Approximate number of tokens of a text, at three bytes per token."""
        length = max(len((text.prompt + text.text).encode("utf-8", "surrogatepass")) // 3, 1)
        most = self.description["max_length"]
        return length if most is None else min(length, most)

    def _probed_width(self) -> int:
        try:
            return self._forward(["width"], "document", "").shape[1]
        except UserError:
            raise
        except Exception as error:  # any error of the libraries
            reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
            raise UserError(
                f"{self._where}: model '{self.config.model}' is loaded but cannot encode a text "
                f"({type(error).__name__}: {reason}). Check that its modules, tokenizer and weights belong together."
            ) from error

    def _forward(self, texts: list[str], side: Literal["query", "document"], prompt: str) -> Float[np.ndarray, "n w"]:
        # Always pass a prompt, even "": otherwise the model would use its default prompt.
        encode = self._model.encode_query if side == "query" else self._model.encode_document
        vectors = encode(texts, prompt=prompt, batch_size=len(texts), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, np.float32)

    def _finished(
        self, vectors: Float[np.ndarray, "n w"], members: list[int], texts: Sequence[Prompted]
    ) -> Float[np.ndarray, "n d"]:
        vectors = vectors[:, : self.width]
        if vectors.shape[1] != self.width:
            raise UserError(
                f"{self._where}: the width changed from {self.width} to {vectors.shape[1]}. Check the model's code."
            )
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            bad = texts[members[int(np.argmin(finite))]]
            raise UserError(
                f"{self._where}: the vector of the {bad.side} {(bad.prompt + bad.text)[:80]!r} is NaN or infinite. "
                "Set precision: float32 (or bfloat16), or remove the text from the data."
            )
        # Truncation and half precision break the model's own normalization.
        rough = self.config.truncate_dim is not None or self.config.precision != "float32"
        if self._normalize and (rough or not self._normalizes_itself):
            vectors = unit_length(vectors)
        return vectors

    def _describe(self, modules: list[str]) -> dict[str, Any]:
        config, folder = self.config, find_folder(self.config)
        hub = folder is not None and not is_local(config)
        found = {} if folder is None else hashes(config, folder)
        if "weight_hash" not in found:
            found["weight_hash"] = _hash_state(self._model)
        # The hub's cache names the folder of a snapshot by its commit.
        commit = folder.name if hub and folder is not None and is_commit(folder.name) else None
        return {
            "model": config.model,
            "revision": commit or config.revision,
            **found,
            "prompts": dict(self._prompts),
            "layer": config.layer,
            "pooling": _pooling(self._model),
            "normalize": self._normalize,
            "max_length": _max_length(self._model),
            "truncate_dim": config.truncate_dim,
            "precision": config.precision,
            "routes": "per side" if "Router" in modules or "Asym" in modules else "shared",
            "dtype": config.dtype,
            "width": self.width,
        }


def _resolve_prompts(config: TeacherConfig, model: Any) -> Mapping[Literal["query", "document"], str]:
    own: Mapping[str, str | None] = model.prompts or {}
    query, document = config.prompts.query, config.prompts.document
    return {
        "query": _own_prompt(own, "query") if query is None else query,
        "document": _own_prompt(own, "document") if document is None else document,
    }


def _own_prompt(own: Mapping[str, str | None], side: Literal["query", "document"]) -> str:
    name = prompt_name(own, side)
    return "" if name is None else own[name] or ""


def _remove_normalize(model: Any) -> None:
    for key, module in list(model.named_children()):
        if type(module).__name__ == "Normalize":
            del model._modules[key]


def _set_max_length(model: Any, max_length: int | None, where: str) -> None:
    if max_length is None:
        return
    inner = getattr(getattr(model[0], "auto_model", None), "config", None)
    # RoBERTa-style models number positions from the padding id + 1.
    offset = (getattr(inner, "pad_token_id", 0) or 0) + 1 if "roberta" in getattr(inner, "model_type", "") else 0
    most = getattr(inner, "max_position_embeddings", None)
    if most is not None and max_length > most - offset:
        raise UserError(f"{where}: max_length is {max_length}, but the model has {most - offset} positions. Lower it.")
    try:
        model.max_seq_length = max_length
    except AttributeError as error:
        raise UserError(
            f"{where}: max_length is {max_length}, but {type(model[0]).__name__} has no such limit. Remove it."
        ) from error


def _end_after(model: Any, layer: int, where: str) -> None:
    """Replace each transformer's output by its hidden states after `layer` layers."""
    transformers = [module for module in model.modules() if hasattr(module, "auto_model")]
    if not transformers:
        raise UserError(f"{where}: layer is {layer}, but the model is not a transformer, so has no layers. Remove it.")

    def earlier(module: Any, inputs: Any, features: dict[str, Any]) -> dict[str, Any]:
        states = features.get("all_layer_embeddings")
        if states is None:
            raise UserError(f"{where}: layer is {layer}, but the model does not return its layers. Remove it.")
        if layer >= len(states):
            raise UserError(f"{where}: layer is {layer}, but the model has {len(states) - 1} layers. Lower it.")
        return {**features, "token_embeddings": states[layer]}

    for module in transformers:
        # sentence-transformers then passes them on as `all_layer_embeddings`.
        module.auto_model.config.output_hidden_states = True
        module.register_forward_hook(earlier)


def _max_length(model: Any) -> int | None:
    length = getattr(model, "max_seq_length", None)
    return int(length) if length is not None and math.isfinite(length) else None


def _pooling(model: Any) -> str | None:
    for module in model:
        if type(module).__name__ == "Pooling":
            # The attribute since sentence-transformers 5.4, and the method before.
            mode = module.pooling_mode if hasattr(module, "pooling_mode") else module.get_pooling_mode_str()
            return mode if isinstance(mode, str) else "+".join(mode)
    return None


def _hash_state(model: Any) -> str:
    """sha256 of names, dtypes and bytes of the weights, for models without safetensors files."""
    import torch

    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        whole.update(f"{name} {data.dtype} {list(data.shape)}\n".encode())
        whole.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
