"""Which directions are kept, what is read from them, and how norms are fitted."""

import numpy as np
import pytest

from jdistill.student.pruning.activations import Moments
from jdistill.student.pruning.narrow import least_squares
from jdistill.student.pruning.selection import group_importance, largest
from jdistill.student.pruning.width import important_dimensions, principal_directions, table_directions

RNG = np.random.default_rng(0)


def _moments(x):
    return Moments(float(len(x)), x.sum(0), x.T @ x)


def _data(n=500, d=12, rank=12):
    return RNG.normal(size=(n, rank)) @ RNG.normal(size=(rank, d)) + RNG.normal(size=d)


@pytest.mark.parametrize("centred", [True, False])
def test_principal_directions_are_orthonormal_and_nothing_changes_where_nothing_is_cut(centred):
    stream = [_moments(_data()), _moments(_data())]
    for width in (5, 12):
        P = principal_directions(stream, width, centred=centred)
        np.testing.assert_allclose(P.T @ P, np.eye(width), atol=1e-12)
    np.testing.assert_allclose(P, np.eye(12), atol=1e-9)
    np.testing.assert_array_equal(important_dimensions(stream, 12), np.eye(12))


def test_centred_directions_keep_the_mean_of_a_vector():
    P = principal_directions([_moments(_data())], 5, centred=True)
    x = RNG.normal(size=(7, 12))
    np.testing.assert_allclose((x @ P).mean(1) * 5**0.5, x.mean(1) * 12**0.5, atol=1e-12)


def test_principal_directions_lose_nothing_of_what_has_a_lower_rank():
    x = RNG.normal(size=(500, 4)) @ RNG.normal(size=(4, 12))
    P = principal_directions([_moments(x)], 4, centred=False)
    np.testing.assert_allclose(x @ P @ P.T, x, atol=1e-9)


def test_dimensions_count_the_same_at_every_depth():
    deep = np.diag([100.0, 90, 1, 1])
    shallow = np.diag([0.01, 0.01, 0.04, 1])
    stream = [Moments(1.0, np.zeros(4), deep), Moments(1.0, np.zeros(4), shallow)]
    assert important_dimensions(stream, 2).argmax(0).tolist() == [0, 3]


@pytest.mark.parametrize("biased", [True, False])
def test_what_is_gone_is_read_as_by_least_squares(biased):
    x, P = _data(), np.eye(12)[:, :7]
    back, shift = least_squares(_moments(x), P, biased=biased)
    y = x[:, :7]
    design = np.concatenate([y, np.ones((len(y), 1))], axis=1) if biased else y
    expected = design @ np.linalg.lstsq(design, x, rcond=None)[0]
    np.testing.assert_allclose(y @ back + shift, expected, atol=2e-2 * np.abs(x).max())
    assert np.square(y @ back + shift - x).mean() < np.square(y @ P.T - x).mean() / 1.5


def test_nothing_is_read_into_what_is_whole_or_always_zero():
    x = _data()
    back, shift = least_squares(_moments(x), np.eye(12), biased=True)
    np.testing.assert_array_equal(back, np.eye(12))
    np.testing.assert_allclose(shift, 0, atol=1e-12)
    x[:, 7:] = 0
    back, shift = least_squares(_moments(x), np.eye(12)[:, :7], biased=False)
    np.testing.assert_array_equal(back, np.eye(12)[:7])


@pytest.mark.parametrize("biased", [True, False])
def test_importance_is_the_mean_square_of_what_a_group_adds(biased):
    x, kernel = _data(), RNG.normal(size=(12, 5))
    centred = x - x.mean(0) if biased else x
    expected = [np.square(centred[:, 4 * g : 4 * g + 4] @ kernel[4 * g : 4 * g + 4]).sum(1).mean() for g in range(3)]
    np.testing.assert_allclose(group_importance(_moments(x), kernel, 4, biased=biased), expected, rtol=1e-9)


def test_of_equally_important_ones_the_first_are_kept():
    assert largest(np.array([1.0, 3, 1, 1, 3]), 3).tolist() == [0, 1, 4]


def test_directions_of_a_table_keep_angles():
    table = RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 9)) + 0.0
    for width in (4, 9):
        narrow = table @ table_directions(table, width)
        np.testing.assert_allclose(narrow @ narrow.T, table @ table.T, atol=1e-9)
    squares = np.square(table @ table_directions(table, 9)).sum(0)
    assert (np.diff(squares) <= 1e-9).all()
