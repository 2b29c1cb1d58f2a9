"""Settings of sentence-transformers' Transformer have the same effect as there, or are refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from jdistill.config import UserError
from jdistill.student.hf_folder import read_folder, tokenizer_settings
from tests.tiny import tiny_bert_folder

TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tiny_bert_folder(tmp_path / "m", layers=1)
    (folder / "sentence_bert_config.json").unlink()
    return folder


def write(folder: Path, /, name: str = "bert", **content: Any) -> Path:
    path = folder / f"sentence_{name}_config.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["bert", "albert"], 10), (["albert", "xlm-roberta"], 10), (["roberta", "distilbert"], 10), (["mpnet"], 64)],
)
def test_the_first_of_the_known_names_counts(folder: Path, names: list[str], expected: int) -> None:
    for number, name in enumerate(names):
        write(folder, name, max_seq_length=10 + number)
    assert read_folder(folder).max_length == expected


def test_the_first_name_of_a_section_counts_where_both_are_there(folder: Path) -> None:
    write(folder, tokenizer_args={"model_max_length": 12}, processor_kwargs={"model_max_length": 30})
    assert read_folder(folder).max_length == 12
    write(folder, processor_kwargs={"model_max_length": 30}, max_seq_length=9)
    assert read_folder(folder).max_length == 30


@pytest.mark.parametrize("section", ["config_args", "config_kwargs"])
def test_values_win_over_those_in_config_json(folder: Path, section: str) -> None:
    write(folder, "bert", **{section: {"hidden_act": "relu", "use_cache": True, "trust_remote_code": True}})
    assert read_folder(folder).encoder.model_dump()["hidden_act"] == "relu"
    write(folder, "bert", **{section: {"is_causal": False}})
    with pytest.raises(UserError, match=r"sentence_bert_config.json: config_kwargs sets is_causal = False"):
        read_folder(folder)


def test_without_modules_the_file_is_not_read(folder: Path) -> None:
    write(folder, max_seq_length=9, do_lower_case=True, config_args={"hidden_act": "relu"})
    (folder / "modules.json").unlink()
    found = read_folder(folder)
    assert (found.max_length, found.encoder.model_dump()["hidden_act"]) == (64, "gelu")
    settings = tokenizer_settings(folder)
    assert settings is not None
    assert not settings.lowercase


@pytest.mark.parametrize(
    "content",
    [
        {"modality_config": {"text": TEXT}, "module_output_name": "token_embeddings"},
        {"modality_config": {"text": {**TEXT, "method_output_name": ["last_hidden_state"]}}},
        {"processing_kwargs": {"common": {"return_tensors": "pt"}, "text": {"padding": "longest"}, "image": {"x": 1}}},
        {"model_args": {"add_pooling_layer": False}, "query_length": None, "unpad_inputs": False},
    ],
)
def test_what_changes_no_vector_is_passed_over(folder: Path, content: dict[str, Any]) -> None:
    write(folder, **{"module_output_name": "token_embeddings", **content})
    assert read_folder(folder).max_length == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"modality_config": {"text": {**TEXT, "method_output_name": ["hidden_states", 1]}}},
            r"\['hidden_states', 1\]",
        ),
        (
            {"modality_config": {"text": {**TEXT, "method_output_name": "pooler_output"}}},
            "'pooler_output' of 'forward'",
        ),
        ({"modality_config": {"text": {**TEXT, "method": "get_text_features"}}}, "of 'get_text_features'"),
        ({"modality_config": {"text": TEXT}, "module_output_name": "sentence_embedding"}, "as 'sentence_embedding'"),
        ({"modality_config": {"text": TEXT, "message": TEXT}}, "has 'message', so every text would be formatted with"),
        ({"modality_config": "text"}, "None of None"),
        ({"processing_kwargs": {"text": {"max_length": 6}}}, "has processing_kwargs max_length = 6"),
        ({"processing_kwargs": {"common": {"add_special_tokens": False}}}, "processing_kwargs add_special_tokens = F"),
        ({"processing_kwargs": "x"}, "has processing_kwargs x"),
        ({"query_length": 32}, "has query_length = 32"),
        ({"config_args": "x"}, "config_args is 'x'; expected an object"),
    ],
)
def test_what_is_not_supported_is_reported(folder: Path, content: dict[str, Any], said: str) -> None:
    write(folder, **{"module_output_name": "token_embeddings", **content})
    with pytest.raises(UserError, match=said):
        read_folder(folder)


@pytest.mark.parity
def test_vectors_are_those_of_sentence_transformers(folder: Path) -> None:
    import numpy as np

    import jdistill
    from tests.tiny import SENTENCES

    sentence_transformers = pytest.importorskip("sentence_transformers")
    write(folder, "albert", max_seq_length=7)
    write(folder, "roberta", config_args={"hidden_act": "relu"}, max_seq_length=9)
    expected = sentence_transformers.SentenceTransformer(str(folder), device="cpu").encode(list(SENTENCES))
    np.testing.assert_allclose(jdistill.load(folder).encode(list(SENTENCES)), expected, atol=1e-5)
