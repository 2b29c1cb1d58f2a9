"""A whole training run in a second: a static student on rows that follow from numbers alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdistill.losses import EmbedCosine, InfoNCE, LossConfig
from jdistill.parallel import make_mesh
from jdistill.student import Student, StudentConfig, make_student
from jdistill.train import Run, TrainConfig, TrainResult, train
from jdistill.train.groups import Groups
from jdistill.train.optimizer import AdamW, make_optimizer
from jdistill.train.schedule import Linear
from tests.loader.fakes import make_loader
from tests.tiny import tiny_static_folder

TERMS: dict[str, LossConfig] = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(weight=0.5, temperature=0.2)}
DEFAULTS: dict[str, Any] = {
    "steps": 12,
    "global_batch_size": 16,
    "log_every": 2,
    "evaluate_every": 4,
    "save_every": 3,
    "optimizer": {"peak_lr": 0.05},
    "schedule": {"warmup": 2},
}


def tiny_student(folder: Path, *, dropout: float = 0.1) -> tuple[Student, Any]:
    """A static student of width 8 that learns from teacher `big` of width 6, and its parameters."""
    source = tiny_static_folder(folder, width=8, normalize=True)
    config = StudentConfig(init=str(source), dropout=dropout)
    return make_student(config, teacher_widths={"big": 6}, key=jax.random.key(0))


def adamw(
    steps: int, *, warmup: float = 0.1, frozen: Sequence[str] = (), **options: Any
) -> tuple[optax.GradientTransformation, Groups]:
    """An optimizer, and which parameters it trains; `options` are fields of AdamW."""
    config = AdamW.model_validate(options)
    groups = Groups(config.groups, config.weight_decay, frozen)
    return make_optimizer(config, Linear(warmup=warmup), steps, groups), groups


def tiny_loader(*, batch: int = 16, **options: Any) -> Any:
    """One shape, so one program to compile."""
    return make_loader(**{"batch": batch, "longest": 16, "shapes": 1, **options})


def table_length(params: Any) -> dict[str, float]:
    """A metric that moves while training: mean length of the table's vectors."""
    return {"length": float(jnp.linalg.norm(params["encoder"]["words"], axis=1).mean())}


def run(
    folder: Path,
    student: tuple[Student, Any],
    *,
    evaluate: Any = table_length,
    recipe: dict[str, Any] | None = None,
    loader: Any = None,
    terms: Mapping[str, LossConfig] = TERMS,
    devices: int = 2,
    **changes: Any,
) -> TrainResult:
    """Train; `changes` are fields of TrainConfig."""
    config = TrainConfig.model_validate(DEFAULTS | changes)
    made = Run(
        config=config,
        student=student[0],
        terms=terms,
        loader=loader or tiny_loader(batch=config.global_batch_size),
        evaluate=evaluate,
        folder=folder,
        recipe=recipe or {"name": "tiny", "train": config.model_dump(mode="json")},
        mesh=make_mesh(jax.devices()[:devices], fsdp=config.fsdp),
        seed=5,
    )
    return train(made, student[1])
