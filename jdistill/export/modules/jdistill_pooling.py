# ruff: noqa: D102, RUF012 (as modules of sentence-transformers are written)
"""Poolings of jdistill's students for sentence-transformers 5.0 or later. Does not depend on jdistill.

This file is in a model's folder and referenced by its modules.json. sentence-transformers runs it if the model is
loaded with `trust_remote_code=True`.
"""

import shutil
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

try:
    from sentence_transformers.base.modules.module import Module
except ImportError:  # before 5.4
    from sentence_transformers.models import Module  # pyright: ignore


class _Pooling(Module):  # pyright: ignore[reportGeneralTypeIssues] (one class or the other)
    """Pools hidden states; the result is the last `width` dimensions of `sentence_embedding`."""

    config_keys = ["token_width", "before"]

    def __init__(self, token_width, before=0):
        super().__init__()
        self.token_width = token_width
        self.before = before  # total width of the poolings before this one, to which the result is appended

    def pool(self, hidden, mask, ids):
        """`[n, l, d]`, `[n, l]` (1 for a token, 0 for padding), `[n, l]` -> `[n, e]`, float32."""
        raise NotImplementedError

    @property
    def width(self):
        return self.token_width

    def forward(self, features, **kwargs):
        hidden, ids = features["token_embeddings"], features.get("input_ids")
        if "cu_seq_lens_q" in features:  # all texts in one row, without padding
            lengths = features["cu_seq_lens_q"].diff().tolist()
            hidden = pad_sequence(hidden[0].split(lengths), batch_first=True)
            ids = None if ids is None else pad_sequence(ids[0].split(lengths), batch_first=True)
            ends = torch.tensor(lengths, device=hidden.device)[:, None]
            mask = (torch.arange(hidden.shape[1], device=hidden.device)[None] < ends).long()
        else:
            mask = features["attention_mask"]
        pooled = self.pool(hidden.float(), mask, ids)
        if self.before:
            pooled = torch.cat([features["sentence_embedding"], pooled.to(features["sentence_embedding"].dtype)], -1)
        features["sentence_embedding"] = pooled
        return features

    def get_embedding_dimension(self):
        return self.before + self.width

    def get_sentence_embedding_dimension(self):
        return self.get_embedding_dimension()

    def save(self, output_path, *args, safe_serialization=True, **kwargs):
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)
        # sentence-transformers copies this file into the module's folder, but loads it from the model's.
        shutil.copy(__file__, Path(output_path).parent)

    @classmethod
    def load(
        cls,
        model_name_or_path,
        subfolder="",
        token=None,
        cache_folder=None,
        revision=None,
        local_files_only=False,
        **kwargs,
    ):
        where = {
            "subfolder": subfolder,
            "token": token,
            "cache_folder": cache_folder,
            "revision": revision,
            "local_files_only": local_files_only,
        }
        model = cls(**cls.load_config(model_name_or_path, **where))
        return cls.load_torch_weights(model_name_or_path, model=model, **where)


def _mean(values, mask):
    return (values * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class ActivationPooling(_Pooling):
    """`sum_t relu(h_t . v + c) h_t / count`."""

    config_keys = ["token_width", "before", "bias"]

    def __init__(self, token_width, before=0, bias=True):
        super().__init__(token_width, before)
        self.bias = bias
        self.linear = nn.Linear(token_width, 1, bias=bias)

    def pool(self, hidden, mask, ids):
        return _mean(hidden * self.linear(hidden).relu(), mask)


class SparseVocabularyPooling(_Pooling):
    """`out[v] = max over t with token_t = v of relu(h_t . w + c)`; 0 for tokens that are absent or excluded."""

    config_keys = ["token_width", "before", "bias", "vocab_size", "excluded"]

    def __init__(self, token_width, vocab_size, before=0, bias=True, excluded=()):
        super().__init__(token_width, before)
        self.bias = bias
        self.vocab_size = vocab_size
        self.excluded = list(excluded)
        self.linear = nn.Linear(token_width, 1, bias=bias)

    @property
    def width(self):
        return self.vocab_size

    def pool(self, hidden, mask, ids):
        counted = mask.bool() & ~torch.isin(ids, torch.tensor(self.excluded, dtype=ids.dtype, device=ids.device))
        values = self.linear(hidden).relu()[:, :, 0] * counted
        return values.new_zeros(len(ids), self.vocab_size).scatter_reduce(1, ids, values, "amax")


class LatentAttentionPooling(_Pooling):
    """Latent attention of NV-Embed (arXiv:2405.17428), then the mean."""

    config_keys = ["token_width", "before", "latents", "heads", "attention_width", "inner_width"]

    def __init__(self, token_width, latents, heads, attention_width, inner_width, before=0):
        super().__init__(token_width, before)
        self.latents, self.heads = latents, heads
        self.attention_width, self.inner_width = attention_width, inner_width
        self.table = nn.Parameter(torch.empty(latents, token_width))
        self.token_norm, self.latent_norm, self.inner_norm = (nn.LayerNorm(token_width) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(token_width, attention_width, bias=False) for _ in range(3))
        self.out = nn.Linear(attention_width, token_width, bias=False)
        self.up = nn.Linear(token_width, 2 * inner_width)
        self.down = nn.Linear(inner_width, token_width)

    def pool(self, hidden, mask, ids):
        latents = self.latent_norm(self.table)
        query = self._split(self.query(self.token_norm(hidden)))
        keys = (self._split(x[None]).expand(len(hidden), -1, -1, -1) for x in (self.key(latents), self.value(latents)))
        attended = functional.scaled_dot_product_attention(query, *keys)
        hidden = hidden + self.out(attended.transpose(1, 2).flatten(2))
        x, gate = self.up(self.inner_norm(hidden)).chunk(2, dim=-1)
        return _mean(hidden + self.down(x * functional.gelu(gate)), mask)

    def _split(self, x):
        """`[n, l, w] -> [n, heads, l, w / heads]`."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
