"""Evenly spaced layers."""

import jax
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.student import StudentConfig, make_student
from jdistill.student.build import describe_student, read_pretrained
from jdistill.student.pruning.selection import kept_layers
from tests.tiny import tiny_bert_folder


@pytest.mark.parametrize(
    ("count", "depth", "layers"),
    [
        (3, 6, [0, 2, 5]),
        (2, 6, [0, 5]),
        (1, 6, [0]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (6, 12, [0, 2, 4, 7, 9, 11]),  # of which DistilBERT began
        (4, 12, [0, 4, 7, 11]),
    ],
)
def test_so_many_are_spaced_evenly(count, depth, layers):
    assert kept_layers(count, depth) == layers


@pytest.mark.parametrize("depth", range(1, 40))
def test_first_and_last_are_kept_and_none_twice(depth):
    for count in range(2, depth + 1):
        layers = kept_layers(count, depth)
        assert (layers[0], layers[-1], len(set(layers))) == (0, depth - 1, count)
        gaps = np.diff(layers)
        assert np.ptp(gaps) <= 1


def test_a_list_stays():
    assert kept_layers([2, 0], 6) == [2, 0]


def test_more_than_there_are_is_refused():
    with pytest.raises(UserError, match="4, but the model has 3 layers"):
        kept_layers(4, 3)


def test_a_student_says_which_layers_it_took(tmp_path):
    folder = tiny_bert_folder(tmp_path, layers=5)
    config = StudentConfig.model_validate({"init": str(folder), "keep_layers": 3})
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
    _, listed = make_student(
        StudentConfig(init=str(folder), keep_layers=[0, 2, 4]), teacher_widths={}, key=jax.random.key(0)
    )
    assert student.config.encoder.depth == 3
    jax.tree.map(np.testing.assert_array_equal, params, listed)
    line = describe_student(config, read_pretrained(config), student, params)
    assert "layers 0 2 4 of 5" in line
    total = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    assert f"{total:.2f}M parameters" in line
