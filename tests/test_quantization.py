"""Bytes and bits are those of sentence-transformers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdistill.config import UserError
from jdistill.quantization import quantize, value_ranges

VECTORS = np.random.default_rng(0).normal(size=(150, 20)).astype(np.float32)
PRECISIONS = ("int8", "uint8", "binary", "ubinary")


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["float32", *PRECISIONS])
@pytest.mark.parametrize("given_ranges", [False, True])
def test_equal_to_sentence_transformers(precision, given_ranges):
    util = pytest.importorskip("sentence_transformers.util")
    ranges = 0.5 * value_ranges(VECTORS) if given_ranges else None
    expected = util.quantize_embeddings(VECTORS, precision, ranges=ranges)
    ours = quantize(VECTORS, precision, ranges)
    assert ours.dtype == expected.dtype
    np.testing.assert_array_equal(ours, expected)


@given(st.integers(2, 9), st.integers(1, 17), st.integers(0, 99))
def test_a_byte_is_at_most_a_step_away(rows, width, seed):
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    low, high = value_ranges(vectors)
    step = (high - low) / 255
    back = low + (quantize(vectors, "uint8").astype(np.float64)) * step
    assert (np.abs(back - vectors) <= step * 1.001 + 1e-6).all()
    np.testing.assert_array_equal(quantize(vectors, "int8").astype(int) + 128, quantize(vectors, "uint8"))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_texts_give_no_vectors(precision):
    empty = quantize(np.zeros((0, 20), np.float32), precision)
    assert empty.shape == (0, 20 if precision.endswith("int8") else 3)


def test_a_constant_dimension_is_finite():
    assert (quantize(np.ones((3, 2), np.float32), "uint8") == 0).all()


def test_one_vector_has_no_range():
    with pytest.raises(UserError, match="a single vector does not have"):
        quantize(VECTORS[:1], "int8")
    assert quantize(VECTORS[:1], "int8", value_ranges(VECTORS)).shape == (1, 20)


def test_ranges_of_another_width_are_refused():
    with pytest.raises(UserError, match=r"\[2, 7\], expected \[2, 20\]"):
        quantize(VECTORS, "int8", np.zeros((2, 7), np.float32))
