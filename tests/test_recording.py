"""What a recording gives back, and what its products with two directions show."""

import numpy as np

from tests import recording
from tests.recording import projected


def test_a_recording_gives_back_what_was_written(tmp_path):
    random = np.random.default_rng(0)
    rows = {"a | b": [np.float64(0.5), random.normal(size=(3, 2)), np.zeros((0, 2))], "c": [random.normal(size=5)]}
    weights = {"a\nb/c": np.arange(6, dtype=np.int16).reshape(2, 3)}
    recording.write(tmp_path / "x.npz", rows, {"versions": {"torch": "2"}}, weights)
    found = recording.read(tmp_path / "x.npz")
    assert found.notes == {"versions": {"torch": "2"}}
    assert list(found.arrays) == list(rows)
    for name, arrays in rows.items():
        for x, y in zip(found.arrays[name], arrays, strict=True):
            np.testing.assert_array_equal(x, np.float32(y))
    np.testing.assert_array_equal(found.weights["a\nb/c"], weights["a\nb/c"])


def test_an_error_of_one_number_shows_in_its_vector_alone():
    x = np.random.default_rng(0).normal(size=(4, 5, 12))
    wrong = x.copy()
    wrong[2, 3, 7] += 1e-3
    apart = np.abs(projected(wrong) - projected(x)).max(axis=-1)
    assert apart[2, 3] > 2e-4
    assert (apart > 0).sum() == 1
    for whole in (x[0, 0], np.float64(2.0)):
        np.testing.assert_array_equal(projected(whole), whole)
