"""Kernels of traced and of compiled steps, and the attention that they are."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl

from jdistill.plan.hlo import parse_hlo
from jdistill.plan.kernels import Kernel, attention_path, compiled_kernels, traced_kernels
from jdistill.plan.traced import Work, find_work, peak_bytes
from jdistill.student.kernels import splash
from tests.plan.program import KERNEL_TEXT, TEXT

ROWS, HEADS, LENGTH, WIDTH = 2, 4, 1024, 64
PRODUCT = 2 * ROWS * HEADS * LENGTH * LENGTH * WIDTH
"""FLOPs of one matrix product of attention: queries with keys, or weights with values."""
FORWARD = Kernel("splash_mha_fwd", ((2, 256, 128), (2, 12, 256, 64)))


def attend(x, segments):
    return splash(x, x, x, segments, segments, scale=1.0, window=(None, None)).astype(jnp.float32).sum()


@pytest.fixture(scope="module")
def program():
    vectors = jax.ShapeDtypeStruct((ROWS, LENGTH, HEADS, WIDTH), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)

    def step(x, segments):
        def pieces(_, __):
            return jax.lax.platform_dependent(x, segments, tpu=jax.grad(attend), default=lambda x, _: x), None

        return jax.lax.scan(pieces, x, length=3)[0]

    return jax.make_jaxpr(step)(vectors, segments)


def test_kernels_of_a_trace_multiply_what_attention_does(program):
    found = {kernel.name.split("_")[2]: flops for kernel, flops in traced_kernels(program, "tpu").items()}
    # Scores and their values; scores again, and gradients of weights, then of queries, or of keys and of values.
    assert found == {"fwd": 2 * PRODUCT, "dq": 3 * PRODUCT, "dkv": 4 * PRODUCT}
    between = 2 * ROWS * HEADS * LENGTH * WIDTH  # outside of the kernels: of every row its result times its gradient
    assert find_work(program, "tpu").flops == 3 * (sum(found.values()) + between)
    for kernel in traced_kernels(program, "tpu"):
        assert (ROWS, HEADS, LENGTH, WIDTH) in kernel.shapes


def test_a_kernel_counts_once_for_each_block_and_moves_what_it_is_given_and_gives():
    def multiply(x, y, out):
        out[:] = x[:] @ y[:]

    product = pl.pallas_call(
        multiply,
        grid=(4,),
        in_specs=[pl.BlockSpec((8, 16), lambda i: (i, 0)), pl.BlockSpec((16, 128), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, 128), lambda i: (i, 0)),
        out_shape=jax.ShapeDtypeStruct((32, 128), jnp.float32),
    )
    program = jax.make_jaxpr(product)(jnp.zeros((32, 16)), jnp.zeros((16, 128)))
    flops, moved = 2 * 32 * 16 * 128, 4 * (32 * 16 + 16 * 128 + 32 * 128)
    assert find_work(program, "tpu") == Work(flops, moved, 0)
    assert traced_kernels(program, "tpu") == {Kernel("multiply", ((32, 128),)): flops}
    assert peak_bytes(program, "tpu") == 4 * 32 * 128


def test_other_platforms_have_other_ways(program):
    assert traced_kernels(program, "cuda") == {}
    assert find_work(program, "cuda").flops == 0


def test_kernels_of_a_compiled_program():
    assert compiled_kernels(parse_hlo(KERNEL_TEXT)) == {FORWARD}
    assert compiled_kernels(parse_hlo(TEXT)) == set()


def test_attention_is_named():
    assert attention_path([], [256]) == "XLA (scores pass through memory)"
    assert attention_path([FORWARD], [256]) == "Pallas kernels splash_mha_fwd"
    assert attention_path([FORWARD, FORWARD._replace(name="sort_keys")], [256]) == "Pallas kernels splash_mha_fwd"
    assert attention_path([FORWARD._replace(name="sort_keys")], [256]).startswith("XLA")
    assert attention_path([FORWARD], [32, 256]) == (
        "Pallas kernels splash_mha_fwd; XLA for texts of 32 tokens (their scores pass through memory)"
    )
