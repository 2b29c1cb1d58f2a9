"""A whole training run in a second: a student of one embedding table, on rows that follow from numbers alone."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.losses import EmbedCosine, InfoNCE, LossConfig
from jdistill.parallel import make_mesh
from jdistill.train import TrainConfig, TrainResult, train
from jdistill.types import Tokens
from tests.loader.fakes import make_loader


class TableStudent:
    """Mean of its tokens' vectors, with dropout; any object with these two methods can be trained."""

    def encode(self, params: Any, tokens: Tokens, *, dropout_key: jax.Array | None = None) -> jax.Array:
        vectors = params["encoder"]["embedding"][tokens.ids]
        if dropout_key is not None:
            vectors = jnp.where(jax.random.bernoulli(dropout_key, 0.9, vectors.shape), vectors / 0.9, 0)
        mask = tokens.mask[..., None].astype(jnp.float32)
        mean = (vectors * mask).sum(axis=-2) / mask.sum(axis=-2)
        return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-6)

    def project(self, params: Any, embeddings: jax.Array, teacher: str) -> jax.Array:
        layer = params["projection"][teacher]
        return embeddings @ layer["kernel"] + layer["bias"][None, :]


def table_params(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return {
        "encoder": {"embedding": jnp.asarray(rng.normal(size=(50, 8)), jnp.float32)},
        "projection": {
            "big": {"kernel": jnp.asarray(rng.normal(size=(8, 6)), jnp.float32), "bias": jnp.zeros(6, jnp.float32)}
        },
    }


TERMS: dict[str, LossConfig] = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(weight=0.5)}
DEFAULTS: dict[str, Any] = {
    "steps": 12,
    "global_batch_size": 16,
    "log_every": 2,
    "evaluate_every": 4,
    "save_every": 3,
    "optimizer": {"peak_lr": 0.05, "warmup": 2},
}


def alignment(params: Any) -> dict[str, float]:
    """A metric that moves while training: mean length of the table's vectors."""
    return {"length": float(jnp.linalg.norm(params["encoder"]["embedding"], axis=1).mean())}


def run(
    folder: str | Path,
    *,
    evaluate: Any = alignment,
    recipe: dict[str, Any] | None = None,
    loader: Any = None,
    student: Any = None,
    terms: Any = None,
    params: Any = None,
    devices: int = 4,
    **changes: Any,
) -> TrainResult:
    config = TrainConfig.model_validate(DEFAULTS | changes)
    return train(
        config,
        student=student or TableStudent(),
        params=params or table_params(),
        terms=terms or TERMS,
        loader=loader or make_loader(batch=config.global_batch_size),
        evaluate=evaluate,
        folder=folder,
        recipe=recipe or {"name": "tiny", "train": config.model_dump(mode="json")},
        mesh=make_mesh(jax.devices()[:devices]),
        seed=5,
    )
