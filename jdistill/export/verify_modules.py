"""Independent torch implementations of pooling and head modules, to verify exports against.

They share no code with the student or with the exported module file, whose errors would otherwise go unnoticed.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.student.hf_modules import POOLING_KEYS
from jdistill.student.pooling.base import OWN_FILE

Step = Callable[[Mapping[str, Any], Any], Any]
"""`({"hidden", "mask", "ids", "prompt"}, vectors so far or None) -> vectors`; "prompt" is the number of leading prompt
tokens of each text."""


def read_module(folder: Path, module: Mapping[str, str]) -> Step:
    """The function that computes a module of `modules.json`.

    Raises:
      ValueError: if it is not one that jdistill writes.
    """
    name = module["type"].rpartition(".")[2]
    if not reads(module):
        raise ValueError(f"{folder}: module '{name}' is not one that jdistill writes")
    path = folder / module["path"]
    config = json.loads((path / "config.json").read_text(encoding="utf-8")) if (path / "config.json").is_file() else {}
    return _READERS[name](config, path)


def reads(module: Mapping[str, str]) -> bool:
    """Whether an entry of `modules.json` is a module that this file computes."""
    package, _, name = module["type"].rpartition(".")
    return name in _READERS and package.partition(".")[0] in ("sentence_transformers", OWN_FILE.stem)


def _tensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path / "model.safetensors")


def _pooling(config: Mapping[str, Any], path: Path) -> Step:
    import torch

    modes = config.get("pooling_mode") or [mode for key, mode in POOLING_KEYS.items() if config.get(key)]
    whole = config["include_prompt"]

    def pooled(tokens: Mapping[str, Any], _: Any) -> Any:
        places = tokens["mask"].cumsum(1) * tokens["mask"]  # 1 for the first real token, 2 for the second, ...; else 0
        mask = tokens["mask"] if whole else tokens["mask"] * (places > tokens["prompt"])
        return torch.cat([_MODES[mode](tokens["hidden"], mask, places) for mode in modes], dim=-1)

    return pooled


def _splade(config: Mapping[str, Any], path: Path) -> Step:
    import torch

    def pooled(tokens: Mapping[str, Any], _: Any) -> Any:
        values = torch.log1p(tokens["hidden"].clamp(min=0)) * tokens["mask"][:, :, None]
        values = torch.log1p(values) if config["activation_function"] == "log1p_relu" else values
        return values.amax(1) if config["pooling_strategy"] == "max" else values.sum(1)

    return pooled


def _after(vectors: Any, own: Any) -> Any:
    import torch

    return own if vectors is None else torch.cat([vectors, own], dim=-1)


def _activation(config: Mapping[str, Any], path: Path) -> Step:
    weights = _tensors(path)

    def pooled(tokens: Mapping[str, Any], before: Any) -> Any:
        w = _activations(tokens, weights) * tokens["mask"]
        total = (w[:, None] @ tokens["hidden"])[:, 0]
        return _after(before, total / tokens["mask"].sum(1, keepdim=True).clamp(min=1))

    return pooled


def _activations(tokens: Mapping[str, Any], weights: Mapping[str, Any]) -> Any:
    scores = tokens["hidden"] @ weights["linear.weight"][0]
    return (scores + weights["linear.bias"] if "linear.bias" in weights else scores).clamp(min=0)


def _sparse_vocabulary(config: Mapping[str, Any], path: Path) -> Step:
    import torch

    weights, excluded = _tensors(path), set(config["excluded"])

    def pooled(tokens: Mapping[str, Any], _: Any) -> Any:
        values = _activations(tokens, weights)
        rows = torch.zeros(len(values), config["vocab_size"])
        for row, value, mask, ids in zip(rows, values.tolist(), tokens["mask"], tokens["ids"].tolist(), strict=True):
            for x, real, token in zip(value, mask, ids, strict=True):
                if real and token not in excluded:
                    row[token] = max(float(row[token]), x)
        return rows

    return pooled


def _latent_attention(config: Mapping[str, Any], path: Path) -> Step:
    import torch
    from torch.nn.functional import gelu, layer_norm

    w, heads = _tensors(path), config["heads"]

    def norm(x: Any, name: str) -> Any:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def pooled(tokens: Mapping[str, Any], before: Any) -> Any:
        hidden, latents = tokens["hidden"], norm(w["table"], "latent_norm")
        query, key, value = (
            x @ w[f"{name}.weight"].T
            for x, name in ((norm(hidden, "token_norm"), "query"), (latents, "key"), (latents, "value"))
        )
        found = []
        for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
            found.append(torch.softmax(q @ k.T / q.shape[-1] ** 0.5, dim=-1) @ v)
        hidden = hidden + torch.cat(found, dim=-1) @ w["out.weight"].T
        inner = norm(hidden, "inner_norm") @ w["up.weight"].T + w["up.bias"]
        half = inner.shape[-1] // 2
        gated = inner[..., :half] * gelu(inner[..., half:])
        return _after(before, _mean(hidden + gated @ w["down.weight"].T + w["down.bias"], tokens["mask"], None))

    return pooled


def _dense(config: Mapping[str, Any], path: Path) -> Step:
    import torch

    tensors = _tensors(path)
    activation = getattr(torch.nn, config["activation_function"].rpartition(".")[2])()

    def step(_: Mapping[str, Any], x: Any) -> Any:
        out = activation(torch.nn.functional.linear(x, tensors["linear.weight"], tensors.get("linear.bias")))
        if not config.get("use_residual"):
            return out
        return out + (x @ tensors["residual.weight"].T if "residual.weight" in tensors else x)

    return step


def _layer_norm(config: Mapping[str, Any], path: Path) -> Step:
    tensors = _tensors(path)

    def step(_: Mapping[str, Any], x: Any) -> Any:
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return normed * tensors["norm.weight"] + tensors["norm.bias"]

    return step


def _normalize(config: Mapping[str, Any], path: Path) -> Step:
    import torch

    return lambda _, x: torch.nn.functional.normalize(x, dim=-1)


_READERS: Mapping[str, Callable[[Mapping[str, Any], Path], Step]] = {
    "Pooling": _pooling,
    "SpladePooling": _splade,
    "ActivationPooling": _activation,
    "SparseVocabularyPooling": _sparse_vocabulary,
    "LatentAttentionPooling": _latent_attention,
    "Dense": _dense,
    "LayerNorm": _layer_norm,
    "Normalize": _normalize,
}


def _mean(hidden: Any, mask: Any, places: Any) -> Any:
    return _total(hidden, mask) / mask.sum(1, keepdim=True).clamp(min=1e-9)


def _mean_sqrt_len(hidden: Any, mask: Any, places: Any) -> Any:
    return _total(hidden, mask) / mask.sum(1, keepdim=True).clamp(min=1e-9).sqrt()


def _total(hidden: Any, mask: Any) -> Any:
    return (hidden * mask[:, :, None]).sum(1)


def _weighted_mean(hidden: Any, mask: Any, places: Any) -> Any:
    weights = places * mask
    return (hidden * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)


def _row(hidden: Any, position: Any) -> Any:
    return hidden.gather(1, position[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0]


_MODES: Mapping[str, Callable[[Any, Any, Any], Any]] = {
    "cls": lambda hidden, mask, places: _row(hidden, mask.argmax(1)),
    "max": lambda hidden, mask, places: hidden.masked_fill(mask[:, :, None] == 0, -np.inf).amax(1),
    "mean": _mean,
    "mean_sqrt_len": _mean_sqrt_len,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": lambda hidden, mask, places: _row(hidden * mask[:, :, None], mask.cumsum(1).argmax(1)),
}
"""Mode -> function of hidden states, the mask of pooled tokens, and their positions in the text from 1."""
