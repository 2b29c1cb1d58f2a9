"""The one rule by which parameters are split, and the way of a gradient back to them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.parallel.microbatches import in_microbatches
from jdistill.parallel.sharding import SMALLEST
from tests.parallel.sharded import loops


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((250_002, 384), PartitionSpec(None, "fsdp")),  # the table of words of XLM-R: 250,002 is no multiple of 4
        ((250_004, 384), PartitionSpec("fsdp")),
        ((384, 1536), PartitionSpec(None, "fsdp")),
        ((1536, 384), PartitionSpec("fsdp")),
        ((384, 384), PartitionSpec("fsdp")),  # of equally long axes the first
        ((1001, 1001), PartitionSpec()),  # no axis divides
        ((SMALLEST,), PartitionSpec("fsdp")),
        ((SMALLEST - 4,), PartitionSpec()),
        ((), PartitionSpec()),
    ],
)
def test_the_longest_axis_that_divides_is_split(shape: tuple[int, ...], spec: PartitionSpec) -> None:
    form = {"x": jax.ShapeDtypeStruct(shape, jnp.float32)}
    assert state_sharding(form, make_mesh(fsdp=4))["x"].spec == spec
    assert state_sharding(form, make_mesh())["x"].spec == PartitionSpec()


def test_a_device_holds_its_part() -> None:
    mesh, table = make_mesh(fsdp=4), np.arange(4.0 * SMALLEST, dtype=np.float32).reshape(-1, 4)
    placed = jax.device_put(table, state_sharding(table, mesh))
    assert {s.data.shape for s in placed.addressable_shards} == {(SMALLEST // 4, 4)}
    np.testing.assert_array_equal(placed, table)


@pytest.mark.parametrize("count", [1, 4])
def test_gradients_cross_the_devices_once_each_part_to_its_device(count: int) -> None:
    """However many pieces: beside the gathers one reduce-scatter within the groups, one all-reduce across them, which
    for small parameters goes over all."""
    mesh = make_mesh(fsdp=4)
    weights = {"large": jnp.ones((512, 256)), "small": jnp.ones(256)}
    places = state_sharding(weights, mesh)

    def encode(weights: dict[str, Array], x: Array, _: Array) -> Array:
        return jnp.tanh(x @ weights["large"] * weights["small"][None])

    def loss(weights: dict[str, Array], x: Array) -> Array:
        return in_microbatches(encode, weights, x, jax.random.key(0), count=count, mesh=mesh).sum()

    x = jax.random.normal(jax.random.key(1), (64, 512))
    step = jax.jit(jax.grad(loss), in_shardings=(places, row_sharding(mesh)), out_shardings=places)
    compiled = step.lower(weights, x).compile()
    text = compiled.as_text()
    found = {op: len(re.findall(rf" {op}(?:-start)?\(", text)) for op in ("all-gather", "reduce-scatter", "all-to-all")}
    assert found == {"all-gather": 1, "reduce-scatter": 1, "all-to-all": 0}
    reduced = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    assert sorted(int(n) for shape in reduced for n in re.findall(r"f32\[(\d+)", shape)) in ([128, 256], [256, 512])
    assert not re.search("all-reduce|all-gather|reduce-scatter", loops(text))
    assert bool(loops(text)) == (count > 1)
    gradient = step(jax.device_put(weights, places), jax.device_put(x, row_sharding(mesh)))
    expected = jax.grad(lambda w: encode(w, x, x).sum())(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), gradient, expected)
