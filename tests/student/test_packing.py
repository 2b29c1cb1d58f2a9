"""Packed rows give what padded rows give, in value and gradient."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.loader.packing import packed_rows, places
from jdistill.student import Student, StudentConfig, make_student
from jdistill.student.hf_folder.modules.pooling import POOLING_KEYS
from jdistill.student.packing import rows_of
from jdistill.student.pooling import MODES
from jdistill.types import Tokens
from tests.tiny import tiny_bert_folder

ORDER = list(POOLING_KEYS.values())
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


def every_mode(folder: Path, **options: Any) -> tuple[Student, Any]:
    """A student that gives what each pooling by a mode gives, side by side."""
    source = tiny_bert_folder(folder, pooling=tuple(MODES), normalize=False, **options)
    return make_student(StudentConfig(init=str(source)), teacher_widths={}, key=jax.random.key(0))


def by_mode(vectors: Any) -> dict[str, np.ndarray]:
    """The vectors of each mode, of unit length."""
    parts = np.split(np.asarray(vectors), len(MODES), axis=1)
    return {mode: part / np.linalg.norm(part, axis=1, keepdims=True) for mode, part in zip(ORDER, parts, strict=True)}


def test_packed_equals_padded(tmp_path):
    student, params = every_mode(tmp_path, layers=2)
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
        found = by_mode(vectors)
        for mode, one in by_mode(expected).items():
            np.testing.assert_allclose(found[mode], one, atol=1e-6, err_msg=mode)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), gradient, expected_gradient)


def test_prompts_are_passed_over_in_packed_rows_too(tmp_path):
    student, params = every_mode(tmp_path, layers=1)
    prompts = jnp.asarray(np.array([2, 8, 0, 5, 4, 1, 1, 0]), jnp.int32)  # shorter than the texts, and not all alike
    encode = jax.jit(student.encode)
    plain, packed = (tokens._replace(prompt=prompts) for tokens in batch(capacity=17))
    expected, found = by_mode(encode(params, plain)), by_mode(encode(params, packed))
    whole = by_mode(encode(params, plain._replace(prompt=None)))
    for mode, one in expected.items():
        np.testing.assert_allclose(found[mode], one, atol=1e-6, err_msg=mode)
        assert (np.abs(one - whole[mode])[prompts > 0].max() > 1e-3) == (mode != "lasttoken")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("prompt", [0, 2])
def test_the_gradient_of_the_largest_goes_to_the_first_of_the_largest_alone(packed, prompt):
    """Also where several are equal, and in a text that has no token left."""
    rows = rows_of(batch(capacity=17)[packed])
    rows = rows.behind(jnp.full(len(LENGTHS), prompt, jnp.int32)) if prompt else rows
    texts = np.where(rows.held, rows.texts, -1)
    values = np.random.default_rng(3).integers(-2, 2, (*texts.shape, 5)).astype(np.float32)
    cotangent = np.random.default_rng(4).normal(size=(len(LENGTHS), 5)).astype(np.float32)

    @jax.jit
    def value_and_gradient(values):
        largest, pull = jax.vjp(rows.largest, values)
        return largest, *pull(jnp.asarray(cotangent))

    largest, found = value_and_gradient(values)
    expected, gradient = np.full((len(LENGTHS), 5), -np.inf), np.zeros(values.shape)
    for text, dim in np.ndindex(*expected.shape):
        own = np.argwhere(texts == text)
        if len(own):
            first = max(own, key=lambda at: (values[*at, dim], -at[0], -at[1]))
            expected[text, dim] = values[*first, dim]
            gradient[*first, dim] = cotangent[text, dim]
    np.testing.assert_array_equal(largest, expected)
    np.testing.assert_array_equal(found, np.float32(gradient))
    assert np.isinf(expected).any() == (prompt > 0)


def test_empty_rows_change_nothing(tmp_path):
    folder = tiny_bert_folder(tmp_path)
    student, params = make_student(StudentConfig(init=str(folder)), teacher_widths={}, key=jax.random.key(0))
    _, packed = batch(capacity=17)
    _, roomy = batch(capacity=17, rows=12)
    assert roomy.packed is not None
    assert roomy.packed.shape == (12, 17)
    encode = jax.jit(student.encode)
    np.testing.assert_allclose(encode(params, roomy), encode(params, packed), atol=1e-6)
