"""The tiny folders are what they claim: sentence-transformers loads them."""

import numpy as np
import pytest

from tests.tiny import SENTENCES, tiny_bert_folder, tiny_static_folder


@pytest.mark.parity
def test_sentence_transformers_loads_the_tiny_bert(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = tiny_bert_folder(tmp_path / "bert", max_length=32)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(list(SENTENCES))
    assert vectors.shape == (len(SENTENCES), 32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert np.abs(vectors @ vectors.T - np.eye(len(SENTENCES))).max() < 0.999  # texts differ
    assert model.max_seq_length == 32


@pytest.mark.parity
def test_sentence_transformers_loads_the_tiny_static_embedding(tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = tiny_static_folder(tmp_path / "static", width=8)
    vectors = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(["the cat", "a dog"])
    assert vectors.shape == (2, 8)
