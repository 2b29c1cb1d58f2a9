"""Folders whose model gives no single dense vector per text, or is not whole: refused by what their files say."""

import json

import pytest

from jdistill.config import UserError
from jdistill.folders import refuse_what_no_student_reads, refuse_what_no_teacher_gives
from tests.folders.test_code import add_module, change
from tests.tiny import tiny_bert_folder

OURS = "sentence_transformers.models"


@pytest.fixture
def folder(tmp_path):
    return tiny_bert_folder(tmp_path / "m", layers=1)


@pytest.fixture
def plain(tmp_path):
    return tiny_bert_folder(tmp_path / "m", layers=1, sentence_transformers=False)


def modules(folder, *kinds):
    listed = [{"idx": i, "name": str(i), "path": str(i) if i else "", "type": kind} for i, kind in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))


def test_dense_models_pass_with_the_other_heads_of_bge_m3_beside(folder):
    for name in ("colbert_linear.pt", "sparse_linear.pt"):
        (folder / name).touch()
    change(folder / "config.json", architectures=["XLMRobertaModel"], quantization_config=None)
    change(folder / "sentence_bert_config.json", modality_config={"text": {"method": "forward"}, "message": {}})
    add_module(folder, f"{OURS}.Dense", "3_Dense")
    refuse_what_no_teacher_gives(folder, where="here")
    refuse_what_no_student_reads(folder)


def test_a_classifier_with_a_pooling_gives_vectors(folder):
    change(folder / "config.json", architectures=["CamembertForSequenceClassification"])
    refuse_what_no_teacher_gives(folder, where="here")


@pytest.mark.parametrize(
    "kinds",
    [
        ("sentence_transformers.sparse_encoder.models.MLMTransformer", f"{OURS}.SpladePooling"),
        ("sentence_transformers.sparse_encoder.models.SparseStaticEmbedding",),
        (f"{OURS}.Transformer", f"{OURS}.Pooling", "sentence_transformers.sparse_encoder.models.SparseAutoEncoder"),
    ],
)
def test_sparse_teachers_are_refused(folder, kinds):
    modules(folder, *kinds)
    with pytest.raises(UserError, match=r"here: .*gives sparse vectors.*not supported yet\. Choose a model with dense"):
        refuse_what_no_teacher_gives(folder, where="here")


def test_a_sparse_router_and_a_folder_that_says_so_are_refused(folder):
    change(folder / "config_sentence_transformers.json", model_type="SparseEncoder")
    with pytest.raises(UserError, match="gives sparse vectors"):
        refuse_what_no_teacher_gives(folder, where="here")
    modules(folder, f"{OURS}.Router")
    change(folder / "config_sentence_transformers.json", model_type="SentenceTransformer")
    change(folder / "router_config.json", types={"document_0": f"{OURS}.SpladePooling"})
    with pytest.raises(UserError, match="gives sparse vectors"):
        refuse_what_no_teacher_gives(folder, where="here")


@pytest.mark.parametrize(
    "kinds",
    [
        (f"{OURS}.Transformer", f"{OURS}.Dense"),
        (f"{OURS}.Transformer", "pylate.models.Dense.Dense"),
        (f"{OURS}.Transformer", f"{OURS}.Dense", "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"),
    ],
)
def test_models_with_a_vector_per_token_are_refused(folder, kinds):
    modules(folder, *kinds)
    for refuse in (
        lambda: refuse_what_no_teacher_gives(folder, where="here"),
        lambda: refuse_what_no_student_reads(folder),
    ):
        with pytest.raises(UserError, match=r"gives one vector per token.*one vector per text"):
            refuse()


def test_colbert_without_modules_is_refused(plain):
    (plain / "artifact.metadata").write_text("{}")
    with pytest.raises(UserError, match=r"one vector per token.*artifact\.metadata"):
        refuse_what_no_teacher_gives(plain, where="here")
    (plain / "artifact.metadata").unlink()
    change(plain / "config.json", architectures=["HF_ColBERT"])
    with pytest.raises(UserError, match=r"one vector per token.*HF_ColBERT"):
        refuse_what_no_teacher_gives(plain, where="here")


def test_cross_encoders_are_refused(plain):
    change(plain / "config.json", architectures=["XLMRobertaForSequenceClassification"])
    with pytest.raises(UserError, match=r"is a cross-encoder \(XLMRobertaForSequenceClassification\)"):
        refuse_what_no_teacher_gives(plain, where="here")
    change(plain / "config.json", architectures=["BertModel"])
    modules(plain, f"{OURS}.Transformer", "sentence_transformers.cross_encoder.modules.LogitScore")
    with pytest.raises(UserError, match="is a cross-encoder"):
        refuse_what_no_teacher_gives(plain, where="here")


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("config.json", {"vision_config": {"hidden_size": 4}}),
        ("config.json", {"audio_config": {"hidden_size": 4}}),
        ("sentence_bert_config.json", {"modality_config": {"text": {}, "image+text": {}}}),
    ],
)
def test_models_that_read_more_than_text_are_refused(folder, file, keys):
    change(folder / file, **keys)
    with pytest.raises(UserError, match=r"is multimodal \(.*Choose a text-only model"):
        refuse_what_no_teacher_gives(folder, where="here")


def test_clip_is_refused(folder):
    modules(folder, f"{OURS}.CLIPModel")
    with pytest.raises(UserError, match=r"is multimodal \(CLIPModel\)"):
        refuse_what_no_teacher_gives(folder, where="here")


def test_adapters_and_quantised_weights_are_refused_with_what_to_do(folder):
    change(folder / "config.json", quantization_config={"quant_method": "gptq"})
    for refuse in (
        lambda: refuse_what_no_teacher_gives(folder, where="here"),
        lambda: refuse_what_no_student_reads(folder),
    ):
        with pytest.raises(UserError, match=r"quantization_config.*Use the original model"):
            refuse()
    change(folder / "adapter_config.json", base_model_name_or_path="someone/base")
    for refuse in (
        lambda: refuse_what_no_teacher_gives(folder, where="here"),
        lambda: refuse_what_no_student_reads(folder),
    ):
        with pytest.raises(UserError, match=r"a PEFT adapter .*'someone/base'.*merge_and_unload"):
            refuse()
