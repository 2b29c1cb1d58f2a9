"""Weight tables: several parameters in one tensor; what does not fit is reported."""

import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.student.modules import linear_rows
from jdistill.student.weights import Weight, from_hf, to_hf

TABLE = [
    *linear_rows("Wqkv", "query", part=(0, 3)),
    *linear_rows("Wqkv", "key", part=(1, 3)),
    *linear_rows("Wqkv", "value", part=(2, 3)),
    Weight("norm.weight", "norm.scale"),
]
SHAPES = {
    **{name: {"kernel": np.zeros((2, 4)), "bias": np.zeros(4)} for name in ("query", "key", "value")},
    "norm": {"scale": np.zeros(2)},
}


def tensors(rows: int = 12):
    rng = np.random.default_rng(0)
    return {
        "Wqkv.weight": rng.normal(size=(rows, 2)).astype(np.float32),
        "Wqkv.bias": rng.normal(size=rows).astype(np.float32),
        "norm.weight": rng.normal(size=2).astype(np.float32),
    }


def test_a_tensor_feeds_several_parameters_and_comes_back_bitwise():
    theirs = tensors()
    ours = from_hf(TABLE, theirs, SHAPES, where="here")
    np.testing.assert_array_equal(ours["key"]["kernel"], theirs["Wqkv.weight"][4:8].T)
    np.testing.assert_array_equal(ours["value"]["bias"], theirs["Wqkv.bias"][8:])
    back = to_hf(TABLE[::-1], ours)  # in whichever order the rows stand
    assert set(back) == set(theirs)
    for key, value in theirs.items():
        np.testing.assert_array_equal(back[key], value)
        assert back[key].flags.c_contiguous


@pytest.mark.parametrize("rows", [9, 13, 15])
def test_a_tensor_that_does_not_divide_is_reported(rows):
    with pytest.raises(UserError, match="tensors with a wrong shape"):
        from_hf(TABLE, tensors(rows), SHAPES, where="here")


def test_a_missing_tensor_is_reported_once():
    theirs = tensors()
    del theirs["Wqkv.weight"]
    with pytest.raises(UserError, match=r"1 tensors missing \(Wqkv.weight\)"):
        from_hf(TABLE, theirs, SHAPES, where="here")


def test_a_table_without_all_parts_is_a_bug():
    ours = from_hf(TABLE, tensors(), SHAPES, where="here")
    del ours["value"]
    with pytest.raises(ValueError, match=r"Wqkv.weight has the parts \[\(0, 3\), \(1, 3\)\]"):
        to_hf([row for row in TABLE if not row.path.startswith("value")], ours)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_reported_by_tensor(value):
    theirs = tensors()
    theirs["norm.weight"][1] = value
    theirs["pooler.weight"] = np.full(2, np.nan)  # nothing is computed with it
    with pytest.raises(UserError, match=r"here: .*1 tensors with NaN or infinite values \(norm\.weight\)"):
        from_hf(TABLE, theirs, SHAPES, where="here", ignored=("pooler.*",))


def test_a_number_in_place_of_a_matrix_is_of_another_shape():
    theirs = {**tensors(), "Wqkv.bias": np.float32(1.0), "norm.weight": np.float32(1.0)}
    theirs = {name: np.asarray(tensor) for name, tensor in theirs.items()}
    with pytest.raises(UserError, match=r"4 tensors with a wrong shape"):
        from_hf(TABLE, theirs, SHAPES, where="here")


def test_only_the_first_of_many_names_are_reported():
    theirs = tensors() | {f"extra.{i:02}": np.zeros(1) for i in range(30)}
    with pytest.raises(UserError, match=r"30 tensors .*extra\.00, .*extra\.11 and 18 more\)") as message:
        from_hf(TABLE, theirs, SHAPES, where="here")
    assert len(str(message.value)) < 500
