import numpy as np
import pytest

from jdistill.store import verify
from tests.store.conftest import embed


@pytest.fixture
def store(make_store):
    store = make_store()
    embed(store, "t", dtype="int8")
    return store


def flip(path, where=-1):
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)


def test_a_whole_store_has_no_problems(store):
    assert verify(store) == []


@pytest.mark.parametrize(
    "file",
    [
        "texts/values.npy",
        "texts/offsets.npy",
        "rows/train/documents.npy",
        "rows/train/scores.npy",
        "teachers/t/shards/00001.npy",
        "teachers/t/shards/00001.scales.npy",
    ],
)
def test_one_flipped_bit_or_a_missing_file_is_found(store, file):
    flip(store.path / file)
    assert verify(store) == [f"{store.path / file}: damaged (its sha256 differs from the manifest's)"]
    (store.path / file).unlink()
    assert verify(store) == [f"{store.path / file}: missing"]


def test_a_vector_that_belongs_to_another_text_is_found(store):
    index = np.load(store.path / "teachers/t/index.document.npy")
    index[[1, 3]] = index[[3, 1]]
    np.save(store.path / "teachers/t/index.document.npy", index)
    (problem,) = verify(store)
    assert "2 document vectors do not belong to their texts, the first is text 1" in problem


@pytest.mark.parametrize("file", ["keys.npy", "texts.npy"])
def test_wrong_keys_are_found(store, file):
    flip(store.path / "teachers/t" / file)
    assert any("1 document vectors do not belong to" in p or "do not exist" in p for p in verify(store))
    (store.path / "teachers/t" / file).unlink()
    assert verify(store) == [f"{store.path / 'teachers/t'}: missing or damaged: {file}"]
