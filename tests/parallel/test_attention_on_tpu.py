"""The program compiled for a TPU slice attends by the kernel that the rule says, each device on its own rows."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from jdistill.parallel import make_mesh, row_sharding
from jdistill.parallel.microbatches import in_microbatches
from jdistill.student.attention import attention, attention_path


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler, libtpu, is not installed")
@pytest.mark.parametrize("length", [128, 256])
def test_the_kernel_is_in_the_program(length: int) -> None:
    from jdistill.plan.topology import topology_devices

    mesh = make_mesh(topology_devices("v5e:2x2"))

    def attend(kernel: Array, x: Array, _: Array) -> Array:
        x = (x @ kernel).reshape(*x.shape[:2], 2, -1)
        return attention(x, x, x, jnp.ones(x.shape[:2], bool))

    def loss(kernel: Array, x: Array) -> Array:
        return in_microbatches(attend, kernel, x, jax.random.key(0), count=2, mesh=mesh).sum()

    rows = jax.ShapeDtypeStruct((16, length, 64), jnp.bfloat16, sharding=row_sharding(mesh))
    kernel = jax.ShapeDtypeStruct((64, 128), jnp.bfloat16)
    text = jax.jit(jax.grad(loss)).lower(kernel, rows).compile().as_text()
    splashes = attention_path("tpu", length, 64, "bfloat16", 0.0) == "splash"
    assert ("tpu_custom_call" in text) == splashes == (length == 256)
    assert "all-gather" not in text
    assert "all-to-all" not in text
