"""Sizes by name: they fill what is left out, and are gone once read."""

import json

import jax
import pytest

from jdistill.config import UserError, parse
from jdistill.recipe import Recipe
from jdistill.student import StudentConfig, make_student
from jdistill.student.encoders import MODEL_TYPES, BertConfig
from jdistill.student.student import load_architecture, save_architecture
from tests.tiny import VOCABULARY, tiny_bert_folder


def student(**encoder):
    return parse(StudentConfig, {"encoder": encoder, "tokenizer": "somewhere"}, where="x.yaml").encoder


def test_a_size_fills_what_is_left_out():
    config = student(kind="bert", size="mini", num_hidden_layers=3)
    assert config is not None
    assert config == BertConfig(num_hidden_layers=3, hidden_size=256, intermediate_size=1024, num_attention_heads=4)
    assert "vocab_size" not in config.model_fields_set  # which would overrule the tokenizer


def test_a_size_leaves_no_trace():
    config = BertConfig(size="tiny")
    assert config.size is None
    assert "size" not in config.model_dump()
    assert "size" not in config.to_hf()
    assert BertConfig.model_validate(json.loads(config.model_dump_json())) == config
    assert config.width == 128


def test_unknown_sizes_are_refused_with_those_that_there_are():
    with pytest.raises(
        UserError, match=r"student.encoder|encoder: size is 'minni'. Did you mean 'mini'\? Known: tiny,"
    ):
        student(kind="bert", size="minni")
    with pytest.raises(UserError, match="this kind has no named sizes"):
        student(kind="static", size="tiny")


def test_the_schema_for_editors_knows_sizes():
    assert "size" in json.dumps(Recipe.model_json_schema()["$defs"]["BertConfig"]["properties"])


@pytest.mark.parametrize(
    ("architecture", "name"), [(found, name) for found in MODEL_TYPES.values() for name in found.sizes]
)
def test_every_size_is_a_valid_encoder(architecture, name):
    config = architecture(size=name)
    assert {field: getattr(config, field) for field in architecture.sizes[name]} == architecture.sizes[name]
    assert config.width == architecture.sizes[name]["hidden_size"]


def test_a_random_student_by_name(tmp_path):
    encoder = {"kind": "modernbert", "size": "ettin-17m", "num_hidden_layers": 2}
    config = parse(
        StudentConfig, {"encoder": encoder, "tokenizer": str(tiny_bert_folder(tmp_path))}, where="command line"
    )
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
    assert student.width == 256
    assert student.config.encoder.vocab_size == len(VOCABULARY) == params["encoder"]["embeddings"]["words"].shape[0]
    assert params["encoder"]["layers"]["1"]["up"]["kernel"].shape == (256, 384)
    assert set(params["encoder"]["layers"]) == {"0", "1"}
    student.tokenizer.save(tmp_path / "run")
    save_architecture(student, tmp_path / "run")
    assert load_architecture(tmp_path / "run").config == student.config
