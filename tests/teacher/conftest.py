import pytest

from jdistill.store import Store, write_texts
from jdistill.teacher import TeacherConfig
from tests.store.conftest import Row
from tests.tiny import SENTENCES, tiny_bert_folder

TEXTS = [text for text in SENTENCES if text]
PROMPTS = {"query": "dog: ", "document": "tree river "}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A model with prompts of its own, mean pooling and normalisation."""
    return tiny_bert_folder(tmp_path_factory.mktemp("teacher") / "model", hidden=32, layers=2, prompts=PROMPTS)


@pytest.fixture
def config(folder):
    def make(**changes) -> TeacherConfig:
        return TeacherConfig(**{"model": str(folder), "device": "cpu", "batch_size": 3, **changes})

    return make


@pytest.fixture
def store(tmp_path):
    rows = [Row(TEXTS[i % 3], TEXTS[i % 7], (TEXTS[(i + 1) % 5],)) for i in range(10)]
    write_texts(tmp_path / "store", [("a", "train", rows)], fingerprint={})
    return Store.open(tmp_path / "store")
