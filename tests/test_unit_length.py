import numpy as np
import pytest

from jdistill.unit_length import unit_length


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lengths_are_one_and_zeros_stay(dtype):
    vectors = np.array([[[3.0, 4.0], [0.0, 0.0]], [[1e-8, 0.0], [-5.0, 0.0]]], dtype)
    unit = unit_length(vectors)
    assert unit.dtype == dtype
    np.testing.assert_allclose(unit, [[[0.6, 0.8], [0, 0]], [[1, 0], [-1, 0]]], rtol=1e-6)
