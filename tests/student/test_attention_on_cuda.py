"""cuDNN's attention on a GPU: value and gradient of the formula; no text sees another, padding or past a window."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.attention import CAUSAL, FULL, attention

pytestmark = pytest.mark.skipif(jax.default_backend() != "gpu", reason="cuDNN needs a GPU: JDISTILL_TEST_PLATFORM=cuda")

LENGTH = 128
PADDED = np.arange(LENGTH) < np.array([[LENGTH], [50]])
LEFT = PADDED[:, ::-1].copy()
PACKED = np.array([[0] * 50 + [1] * 15 + [2] * 63, [0] * 100 + [1] * 20 + [-1] * 8], np.int32)


def inputs(heads: int) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    shapes = [(2, LENGTH, h, 32) for h in (4, heads, heads)]
    return [jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in shapes]


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("window", [FULL, CAUSAL, (8, 8)], ids=str)
@pytest.mark.parametrize("places", [PADDED, LEFT, PACKED], ids=["right", "left", "packed"])
def test_value_and_gradient_are_those_of_the_formula(places: np.ndarray, window: tuple, heads: int) -> None:
    real = jnp.asarray(places if places.dtype == bool else places >= 0)[:, :, None, None]
    vectors = inputs(heads)

    def run(kernel: str, dtype: jnp.dtype) -> tuple:
        def loss(*x: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = attention(*x, jnp.asarray(places), window=window, kernel=kernel).astype(jnp.float32)
            out = jnp.where(real, out, 0.0)
            return (out**2).sum(), out

        wide = [x.astype(dtype) for x in vectors]
        with jax.default_matmul_precision("highest"):
            (_, out), gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*wide)
        return (out, *gradient)

    for ours, exact in zip(run("cudnn", jnp.bfloat16), run("xla", jnp.float32), strict=True):
        ours, exact = (np.asarray(x, np.float64) for x in (ours, exact))
        assert np.isfinite(ours).all()
        assert np.linalg.norm(ours - exact) <= 1e-2 * np.linalg.norm(exact)


def test_what_is_not_attended_has_no_influence() -> None:
    q, k, v = inputs(4)
    places = jnp.asarray(PACKED)
    other = v.at[0, 50:].set(7.0)
    one, two = (attention(q, k, x, places, kernel="cudnn")[0, :50] for x in (v, other))
    np.testing.assert_array_equal(np.asarray(one, np.float32), np.asarray(two, np.float32))


def test_auto_takes_it() -> None:
    q, k, v = inputs(4)
    text = jax.jit(lambda *x: attention(*x, jnp.asarray(PADDED))).lower(q, k, v).compile().as_text()
    assert "fmha" in text or "cudnn" in text.lower()
