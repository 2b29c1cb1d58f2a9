"""Settings and tables of a student's folder that are not what they should be: refused in a paragraph."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jdistill.config import UserError
from jdistill.student.hf_folder import read_folder
from tests.tiny import VOCABULARY, tiny_bert_folder, tiny_static_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_bert_folder(tmp_path / "m", layers=1)


@pytest.mark.parametrize(
    ("file", "key", "value", "said"),
    [
        ("sentence_bert_config.json", "max_seq_length", "x", "max_seq_length is 'x'; expected an integer >= 1"),
        ("sentence_bert_config.json", "tokenizer_args", "x", "expected an object"),
        ("config_sentence_transformers.json", "prompts", "query: ", "prompts is 'query: '; expected a mapping"),
        ("config_sentence_transformers.json", "prompts", {"query": 3}, "expected a mapping"),
        ("config_sentence_transformers.json", "truncate_dim", -1, "truncate_dim is -1; expected an integer >= 1"),
        ("config.json", "model_type", ["bert"], r"model_type is \['bert'\]"),
        ("1_Pooling/config.json", "pooling_mode", {}, "pooling_mode is"),
    ],
)
def test_settings_of_another_type_are_reported(folder, file, key, value, said):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, key: value}))
    with pytest.raises(UserError, match=said):
        read_folder(folder)


@pytest.mark.parametrize("changed", ["mapping", "weights", "flat"])
def test_a_static_table_that_does_not_fit_together_is_reported(tmp_path, changed):
    folder = tiny_static_folder(tmp_path / "m")
    table = np.ones((len(VOCABULARY), 4), np.float32)
    tensors = {
        "mapping": {"embeddings": table, "mapping": np.array([len(VOCABULARY)])},
        "weights": {"embeddings": table, "weights": np.ones(3)},
        "flat": {"embedding.weight": table[:, 0].copy()},
    }
    save_file(tensors[changed], folder / "0_StaticEmbedding/model.safetensors")
    with pytest.raises(UserError, match=r"do not match|expected \[tokens, width\]"):
        read_folder(folder)
