import pickle

import numpy as np
import pytest

from jdistill.store import token_table
from tests.store.conftest import Row


class TokenEmbedding:
    """Text `a bc` becomes [1, 1, 2, 9]: the length of each word between two special tokens."""

    pad_id = 77

    def __init__(self, fingerprint: str = "words") -> None:
        self.fingerprint = fingerprint
        self.seen: list[str] = []

    def encode(self, texts, max_length):
        self.seen += texts
        return [[1, *[len(word) for word in text.split()][: max_length - 2], 9] for text in texts]


@pytest.fixture
def store(make_store):
    return make_store([Row("a", "bb ccc"), Row("dddd", "e e e e e e")])


def table(store, tokenizer, **changes):
    options = {"prompt": "", "max_length": 5, "ids": np.arange(4), **changes}
    return token_table(store.path, store.texts, tokenizer=tokenizer, **options)


def test_padding_to_a_length(store):
    tokens = table(store, TokenEmbedding())
    np.testing.assert_array_equal(tokens.lengths, [3, 4, 3, 5])
    assert tokens.lengths.dtype == np.int32
    ids, mask = tokens.pad(np.array([[1, 0], [3, 2]]), 6)
    assert (ids.dtype, mask.dtype) == (np.int32, np.bool_)
    want = [[[1, 2, 3, 9, 77, 77], [1, 1, 9, 77, 77, 77]], [[1, 1, 1, 1, 9, 77], [1, 4, 9, 77, 77, 77]]]
    np.testing.assert_array_equal(ids, want)
    np.testing.assert_array_equal(mask.sum(-1), [[4, 3], [5, 3]])
    np.testing.assert_array_equal(ids[~mask], 77)


def test_too_short_a_length_is_refused(store):
    with pytest.raises(ValueError, match=r"a text of 5 tokens does not fit into 4"):
        table(store, TokenEmbedding()).pad(np.array([0, 3]), 4)


def test_texts_are_tokenised_once_with_their_prompt(store):
    tokenizer = TokenEmbedding()
    first = table(store, tokenizer, prompt="p ")
    assert tokenizer.seen == ["p a", "p bb ccc", "p dddd", "p e e e e e e"]
    again = table(store, tokenizer, prompt="p ")
    assert len(tokenizer.seen) == 4
    np.testing.assert_array_equal(first.lengths, again.lengths)


@pytest.mark.parametrize(
    "change", [{"prompt": "p "}, {"max_length": 4}, {"ids": [0, 1]}, {"tokenizer": TokenEmbedding("other")}]
)
def test_whatever_changes_tokens_makes_another_table(store, change):
    one = table(store, TokenEmbedding())
    options = {"tokenizer": TokenEmbedding(), **change}
    assert table(store, **options).folder != one.folder


def test_only_used_texts_are_tokenised(store):
    tokenizer = TokenEmbedding()
    tokens = table(store, tokenizer, ids={3, 1})
    assert tokenizer.seen == ["bb ccc", "e e e e e e"]
    np.testing.assert_array_equal(tokens.lengths, [0, 4, 0, 5])
    np.testing.assert_array_equal(tokens.pad(np.array([3]), 5)[0], [[1, 1, 1, 1, 9]])


def test_tables_travel_to_another_process_as_a_path(store):
    data = pickle.dumps(table(store, TokenEmbedding()))
    assert len(data) < 500
    np.testing.assert_array_equal(pickle.loads(data).lengths, [3, 4, 3, 5])


def test_a_tokenizer_that_does_not_truncate_is_a_bug(store):
    class Long(TokenEmbedding):
        def encode(self, texts, max_length):
            return [[1] * 9 for _ in texts]

    with pytest.raises(ValueError, match=r"returned 9 tokens, but max_length is 5"):
        table(store, Long())
    assert len(table(store, TokenEmbedding()).lengths) == 4
