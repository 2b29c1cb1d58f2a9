"""Candidates handed round a ring give what candidates in one place give, and no transfer keeps the devices waiting."""

import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array

from jdistill.losses import SINGLE_DEVICE, InfoNCE, LossConfig, ScoreKL, StudentFilter, TeacherFilter, TextFilter
from jdistill.parallel import make_mesh, make_objective, row_sharding
from jdistill.parallel.sweeps import GATHERED_BYTES, Gathered, Ring, make_exchange
from jdistill.plan.topology import topology_devices
from jdistill.types import Batch, PairEmbeddings, Tokens, Vectors
from tests.losses.cases import CASES, FIRST_OF_KIND
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import batch, difference, ours, vectors
from tests.parallel.sharded import mesh_of, sharded

SYMMETRIC = InfoNCE(directions=("q2d", "d2q"), partition="per_direction")
FILTERED = InfoNCE(
    directions=("q2d", "d2q", "q2q", "d2d"),
    false_negatives=(TextFilter(), TeacherFilter(), StudentFilter()),
    teacher="big",
)
IN_A_RING = [
    pytest.param(label, name, marks=[pytest.mark.exhaustive] * (label not in FIRST_OF_KIND))
    for label, case in CASES.items()
    for name in ("1 negative", "plain texts")
    if fits(case, INPUTS[name]) and (label in FIRST_OF_KIND or (name == "1 negative" and "info_nce" in label))
]
"""Every kind, and by `make exhaustive` every option of InfoNCE; `make parity` runs all, with every batch."""


@pytest.mark.parametrize(("label", "name"), IN_A_RING)
@pytest.mark.parity
def test_a_ring_gives_what_one_device_gives(label: str, name: str) -> None:
    gap = difference(label, sharded(label, name, 4, 0), ours(label, name))
    assert gap.value <= 1e-5
    assert gap.gradient <= 1e-5


@pytest.mark.parametrize("label", ["info_nce, symmetric", "teacher_info_nce", "sigmoid", "score_kl", "m3_kd"])
def test_a_ring_gathers_nothing(label: str) -> None:
    case, inputs, mesh = CASES[label], INPUTS["1 negative"], mesh_of(4)
    objective = make_objective({"term": case.loss}, mesh, gathered_bytes=0)
    given = vectors(case, inputs)

    def loss(columns: PairEmbeddings, rows: Batch) -> Array:
        parameters = {"term": case.loss.parameters()}
        return objective(given._replace(columns=columns), rows, parameters, jnp.float32(0), jax.random.key(0))[0]

    split = jax.device_put((given.columns, batch(case, inputs)), row_sharding(mesh))
    text = jax.jit(jax.grad(loss)).lower(*split).compile().as_text() or ""
    assert "collective-permute" in text
    assert "all-gather" not in text


def test_candidates_are_gathered_while_they_are_few() -> None:
    few = GATHERED_BYTES // (384 * 8)
    assert make_exchange(mesh_of(1), 10**9, 384) == SINGLE_DEVICE
    assert make_exchange(mesh_of(2), few, 384) == Gathered()
    assert make_exchange(mesh_of(2), few + 1, 384) == Ring()


@pytest.mark.parametrize(
    ("loss", "megabytes"), [(InfoNCE(), 250), (SYMMETRIC, 300), (InfoNCE(hardness="in_batch", strength=9.0), 250)]
)
def test_a_batch_of_32768_on_one_device(loss: LossConfig, megabytes: int) -> None:
    """Value and gradient, width 384: dense scores alone would be 4,295 MB, and their gradients as much."""
    compiled = (
        jax.jit(jax.value_and_grad(on_rows(loss, 32768, mesh_of(1)), argnums=(0, 1)))
        .lower(*forms(32768, 384))
        .compile()
    )
    assert compiled.memory_analysis().temp_size_in_bytes < megabytes * 1e6


def on_rows(loss: LossConfig, n: int, mesh: Mesh, gathered_bytes: int = GATHERED_BYTES) -> Callable[..., Array]:
    """A loss as a function of vectors and text numbers."""
    objective = make_objective({"term": loss}, mesh, gathered_bytes=gathered_bytes)

    def value(queries: Array, documents: Array, targets: PairEmbeddings, ids: Array) -> Array:
        tokens = Tokens(jnp.zeros((n, 1, 1), jnp.int32), jnp.ones((n, 1, 1), bool))
        rows = Batch(None, tokens, {"big": targets}, None, ids, ids[:, None])
        student = Vectors(PairEmbeddings(queries, documents), {}, {})
        return objective(student, rows, {}, jnp.float32(0), jax.random.key(0))[0]

    return value


def forms(n: int, width: int, sharding: NamedSharding | None = None) -> tuple:
    def of(*shape: int, dtype: type = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return of(n, width), of(n, 1, width), PairEmbeddings(of(n, width), of(n, 1, width)), of(n, dtype=jnp.int32)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler, libtpu, is not installed")
@pytest.mark.parametrize(
    "loss",
    [
        SYMMETRIC,
        pytest.param(FILTERED, marks=pytest.mark.exhaustive),
        pytest.param(ScoreKL(teacher="big"), marks=pytest.mark.exhaustive),
    ],
    ids=["symmetric", "filtered", "kl"],
)
def test_on_a_tpu_every_transfer_overlaps_work(loss: LossConfig) -> None:
    """In the schedule of a program compiled for four TPU chips, every transfer of a ring's step begins before the loop
    over the step's tiles and ends after it, forward and backward."""
    mesh = make_mesh(topology_devices("v5e:2x2"))
    n = 4 * 2048
    value = on_rows(loss, n, mesh, gathered_bytes=0)
    compiled = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(*forms(n, 256, row_sharding(mesh))).compile()
    found = list(exposed(compiled.as_text() or ""))
    assert len(found) >= 4
    assert not [transfer for transfer, hidden in found if not hidden]


def exposed(hlo: str) -> Iterator[tuple[str, bool]]:
    """Each transfer in a loop of a scheduled program, and whether an inner loop runs while it is under way."""
    for computation in re.split(r"\n(?=%|ENTRY)", hlo):
        if computation.startswith("ENTRY"):
            continue
        lines = computation.splitlines()
        loops = [i for i, line in enumerate(lines) if " while(" in line]
        for i, line in enumerate(lines):
            if match := re.match(r"\s*(%collective-permute-start[\w.]*) =", line):
                done = next(j for j, x in enumerate(lines) if f"collective-permute-done({match[1]})" in x)
                yield match[1], any(i < loop < done for loop in loops)
