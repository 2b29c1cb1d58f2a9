"""Sums over blocks of candidates: equal to the sums over the whole matrix, and never as large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jdistill.losses import blocks
from jdistill.losses.blocks import logsumexp_over, sum_over
from tests.parallel.sharded import mesh_of

B, M, D = 5, 11, 4
DENSE = {"logsumexp": lambda s: jax.nn.logsumexp(s, axis=-1), "sum": lambda s: s.sum(axis=-1)}
BLOCKED = {"logsumexp": logsumexp_over, "sum": sum_over}


def tile(rows: dict, candidates: dict, shared: dict) -> Array:
    """Scores with a learned temperature and a mask by numbers, of one matrix."""
    scores = rows["x"] @ candidates["x"].T / shared["temperature"]
    return jnp.where(rows["id"][:, None] == candidates["id"][None], shared["masked"], scores)


def arguments(seed: int, masked: float) -> tuple[dict, dict, dict]:
    a, b = (
        jax.random.normal(key, (n, D)) for key, n in zip(jax.random.split(jax.random.key(seed)), (B, M), strict=True)
    )
    return (
        {"x": a, "id": jnp.arange(B)},
        {"x": b, "id": jnp.arange(M)},
        {"temperature": jnp.float32(0.3), "masked": jnp.float32(masked)},
    )


@pytest.mark.parametrize("block", [1, 4, 11])
@pytest.mark.parametrize("kind", BLOCKED)
def test_equal_to_the_whole_matrix(block: int, kind: str) -> None:
    weights = jnp.arange(1.0 * B)
    trees = arguments(block, -jnp.inf if kind == "logsumexp" else 0.0)

    def loss(values: list[Array], reduce: str) -> Array:
        rows, candidates, shared = trees
        args = {**rows, "x": values[0]}, {**candidates, "x": values[1]}, {**shared, "temperature": values[2]}
        out = BLOCKED[kind](tile, *args, block=block) if reduce == "blocked" else DENSE[kind](tile(*args))
        return (out * weights).sum()

    values = [trees[0]["x"], trees[1]["x"], trees[2]["temperature"]]
    ours, theirs = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(values, how) for how in ("blocked", "dense"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), ours, theirs)


@pytest.mark.parametrize("rows_at_a_time", [2, 5])
@pytest.mark.parametrize("block", [4, 11])
def test_one_pass_gives_the_sums_both_ways(block: int, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scores of a pair, each with masks of its own: the first over candidates, the second over rows."""
    monkeypatch.setattr(blocks, "ROWS", rows_at_a_time)

    def pair(rows: dict, candidates: dict, shared: dict) -> tuple[Array, Array]:
        scores = tile(rows, candidates, shared)
        return scores, jnp.where(rows["id"][:, None] == candidates["id"][None] + 1, -jnp.inf, 2 * jnp.sin(scores))

    trees = arguments(block, 0.3)

    def loss(values: list[Array], reduce: str) -> Array:
        rows, candidates, shared = trees
        args = {**rows, "x": values[0]}, {**candidates, "x": values[1]}, {**shared, "temperature": values[2]}
        if reduce == "blocked":
            of_rows, of_candidates = blocks.logsumexp_both(pair, *args, block=block)
        else:
            a, b = pair(*args)
            of_rows, of_candidates = jax.nn.logsumexp(a, axis=1), jax.nn.logsumexp(b, axis=0)
        return (of_rows * jnp.arange(1.0 * B)).sum() + (of_candidates * jnp.cos(jnp.arange(1.0 * M))).sum()

    values = [trees[0]["x"], trees[1]["x"], trees[2]["temperature"]]
    ours, theirs = (jax.jit(jax.value_and_grad(loss), static_argnums=1)(values, how) for how in ("blocked", "dense"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), ours, theirs)


def test_one_pass_scores_each_pair_once() -> None:
    """Forward one matrix product of b x m, backward that one again and two for the gradients."""
    shapes = [jax.ShapeDtypeStruct((64, 16), jnp.float32), jax.ShapeDtypeStruct((128, 16), jnp.float32)]

    def loss(x: Array, y: Array) -> Array:
        def pair(r: Array, c: Array, s: Array) -> tuple[Array, Array]:
            scores = r @ c.T
            return scores * s, scores / s

        both = blocks.logsumexp_both(pair, x, y, jnp.float32(2), block=128)
        return sum(part.sum() for part in both)

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(*shapes))
    assert text.count("dot_general") == 4


def test_a_row_whose_every_score_is_minus_infinity() -> None:
    rows, candidates, shared = arguments(0, -jnp.inf)
    candidates["id"] = jnp.zeros(M, jnp.int32)

    def value(x: Array) -> Array:
        return logsumexp_over(tile, {**rows, "x": x}, candidates, shared, block=4)

    out, pull = jax.vjp(value, rows["x"])
    assert out[0] == -jnp.inf
    assert jnp.isfinite(out[1:]).all()
    gradient = pull(jnp.ones(B))[0]
    assert not gradient[0].any()
    assert jnp.isfinite(gradient).all()


def test_the_copies_that_fill_the_last_block_count_for_nothing() -> None:
    rows, candidates, shared = arguments(1, 0.0)
    counted = sum_over(
        lambda r, c, s: jnp.ones((B, len(c["id"]))) + 0 * r["x"][:, :1], rows, candidates, shared, block=4
    )
    assert counted.tolist() == [M] * B


@pytest.mark.parametrize("kind", ["logsumexp", "sum"])
def test_memory_is_rows_times_block(kind: str) -> None:
    b, m, block = 1024, 8192, 256
    shapes = [jax.ShapeDtypeStruct((n, 16), jnp.float32) for n in (b, m)]

    def loss(x: Array, y: Array) -> Array:
        return BLOCKED[kind](lambda r, c, s: jnp.tanh(r @ c.T) * s, x, y, jnp.float32(2), block=block).sum()

    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * b * block * 4 + 3 * m * 16 * 4


def test_under_shard_map_a_shared_value_gets_the_sum_over_devices() -> None:
    rows, candidates, shared = arguments(2, -jnp.inf)
    x = jnp.concatenate([rows["x"][:4]] * 2)

    def loss(temperature: Array, x: Array) -> Array:
        mine = {"x": x, "id": jnp.full(x.shape[0], -1)}
        return logsumexp_over(tile, mine, candidates, {**shared, "temperature": temperature}, block=4)

    spec = PartitionSpec(("data", "fsdp"))
    split = jax.shard_map(loss, mesh=mesh_of(4), in_specs=(PartitionSpec(), spec), out_specs=spec)
    ours, theirs = (jax.jit(jax.grad(lambda t, f=f: f(t, x).sum()))(jnp.float32(0.3)) for f in (split, loss))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
