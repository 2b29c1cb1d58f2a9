"""Positions of RoBERTa's kind: padding tokens have the one position of padding, also inside a text."""

import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.student.encoders.post_norm import positions_from_mask
from jdistill.student.packing import rows_of
from jdistill.types import Tokens

PADDING = 1

TEXTS = [[0, 5, 1, 6, 1, 1, 7, 2], [0, 2], [1, 5, 2], [0, 1]]
POSITIONS = [[2, 3, 1, 4, 1, 1, 5, 6], [2, 3], [1, 2, 3], [2, 1]]


def padded(rows: list[list[int]], *, left: bool, fill: int) -> np.ndarray:
    full = [[fill] * (8 - len(row)) for row in rows]
    return np.asarray([f + row if left else row + f for f, row in zip(full, rows, strict=True)], np.int32)


@pytest.mark.parametrize("fill", [PADDING, 9], ids=["padded with padding", "padded with anything"])
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_padding_tokens_inside_a_text_take_no_position(left: bool, fill: int) -> None:
    ids, mask = padded(TEXTS, left=left, fill=fill), padded([[1] * len(t) for t in TEXTS], left=left, fill=0) > 0
    found = positions_from_mask(rows_of(Tokens(jnp.asarray(ids), jnp.asarray(mask))), PADDING)
    np.testing.assert_array_equal(found, padded(POSITIONS, left=left, fill=PADDING))


def test_so_do_they_in_packed_rows() -> None:
    ids, mask = padded(TEXTS, left=False, fill=PADDING), padded([[1] * len(t) for t in TEXTS], left=False, fill=0) > 0
    packed = np.asarray([[*range(8), 8, 9, 16, 17, 18, 24, 25, -1]], np.int32)
    found = positions_from_mask(rows_of(Tokens(jnp.asarray(ids), jnp.asarray(mask), jnp.asarray(packed))), PADDING)
    np.testing.assert_array_equal(found, [[*(p for row in POSITIONS for p in row), PADDING]])


@pytest.mark.parity
def test_positions_are_those_of_transformers() -> None:
    import torch
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    ids = padded(TEXTS, left=False, fill=PADDING)
    mask = padded([[1] * len(t) for t in TEXTS], left=False, fill=0) > 0
    theirs = RobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor(ids), PADDING)
    found = positions_from_mask(rows_of(Tokens(jnp.asarray(ids), jnp.asarray(mask))), PADDING)
    np.testing.assert_array_equal(found, theirs.numpy())
