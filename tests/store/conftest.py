import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jdistill.store import Store, TeacherWriter, write_texts


class Row(NamedTuple):
    query: str | None
    document: str
    negatives: tuple[str, ...] = ()
    score: float | tuple[float, ...] | None = None
    label: str | None = None


def pairs(count: int) -> list[Row]:
    """Rows that share texts with each other and between sides."""
    return [Row(f"text {i % 7}", f"text {i}", (f"negative {i % 5}",), i / 4) for i in range(count)]


def fake_vectors(texts: list[str], width: int) -> np.ndarray:
    """A vector per text that depends on nothing but the text."""
    seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") for text in texts]
    rows = [np.random.default_rng(seed).normal(size=width) for seed in seeds]
    return np.array(rows, np.float32).reshape(len(texts), width)


def description(**changes) -> dict:
    return {
        "model": "fake",
        "revision": "r1",
        "weight_hash": "abc",
        "prompts": {"query": "query: ", "document": ""},
        "max_length": 16,
        "normalize": False,
        "dtype": "float32",
        "width": 6,
        **changes,
    }


def embed(store: Store, name: str = "fake", *, shard_rows: int = 4, **changes) -> TeacherWriter:
    writer = TeacherWriter(store, name, description(**changes), shard_rows=shard_rows)
    for shard in writer.missing():
        texts = [text.prompt + text.text for text in writer.texts(shard)]
        writer.write(shard, fake_vectors(texts, writer.description["width"]))
    assert writer.finish()
    return writer


@pytest.fixture
def make_store(tmp_path):
    def make(rows: list[Row] | None = None, **roles: list[Row]) -> Store:
        sources = [("train data", "train", pairs(20) if rows is None else rows)]
        sources += [(f"{role} data", role, content) for role, content in roles.items()]
        path: Path = tmp_path / "store"
        write_texts(path, sources, fingerprint={"x": 1})
        return Store.open(path)

    return make
