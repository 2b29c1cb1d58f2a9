"""Packed rows give what padded rows give, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.loader.packing import packed_rows, places
from jdistill.student import StudentConfig, make_student
from jdistill.types import Tokens
from tests.tiny import tiny_bert_folder

LENGTHS = np.array([3, 9, 1, 12, 5, 7, 2, 12])


def batch(*, capacity: int, rows: int | None = None, padded: int = 14) -> tuple[Tokens, Tokens]:
    """The same texts, padded and packed."""
    rng = np.random.default_rng(0)
    mask = np.arange(padded) < LENGTHS[:, None]
    ids = np.where(mask, rng.integers(5, 40, mask.shape), 0).astype(np.int32)
    rows = packed_rows(LENGTHS, capacity) if rows is None else rows
    packed = places(LENGTHS, padded=padded, rows=rows, capacity=capacity)
    plain = Tokens(jnp.asarray(ids), jnp.asarray(mask))
    return plain, plain._replace(packed=jnp.asarray(packed))


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken"])
def test_packed_equals_padded(tmp_path, pooling):
    folder = tiny_bert_folder(tmp_path, pooling=pooling)
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={}, key=jax.random.key(0))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(len(LENGTHS), student.width)), jnp.float32)

    @jax.jit
    def value_and_gradient(params, tokens):
        def value(params):
            vectors = student.encode(params, tokens)
            return jnp.sum(vectors * weights), vectors

        return jax.value_and_grad(value, has_aux=True)(params)

    (_, expected), expected_gradient = value_and_gradient(params, batch(capacity=12)[0])
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(expected_gradient))
    for capacity in (12, 17, 64):
        (_, vectors), gradient = value_and_gradient(params, batch(capacity=capacity)[1])
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), gradient, expected_gradient)


def test_empty_rows_change_nothing(tmp_path):
    folder = tiny_bert_folder(tmp_path)
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={}, key=jax.random.key(0))
    _, packed = batch(capacity=17)
    _, roomy = batch(capacity=17, rows=12)
    assert roomy.packed is not None
    assert roomy.packed.shape == (12, 17)
    np.testing.assert_allclose(student.encode(params, roomy), student.encode(params, packed), atol=1e-6)
