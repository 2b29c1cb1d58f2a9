"""What a teacher's folder may be: complete, finite, whole, dense, and without code of its own."""

import json

import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.store import Store
from jdistill.teacher import Teacher, check_folder, embed
from tests.folders.test_code import add_module, change
from tests.teacher.conftest import TEXTS
from tests.tiny import tiny_bert_folder, tiny_static_folder


@pytest.fixture
def folder(tmp_path):
    return tiny_bert_folder(tmp_path / "m", layers=2)


def rewritten(folder, change):
    """The same folder with other tensors."""
    from safetensors.torch import load_file, save_file

    tensors = change(load_file(folder / "model.safetensors"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("lost", ["embeddings.word", "embeddings.token_type", "layer.1.output.dense.bias", "LayerNorm"])
def test_weights_that_vectors_depend_on_may_not_be_missing(config, folder, lost):
    rewritten(folder, lambda tensors: {name: t for name, t in tensors.items() if lost not in name})
    with pytest.raises(UserError, match=rf"teachers.x: model .* lack \d+ tensors \(.*{lost}.*Copy or download"):
        Teacher(config(model=str(folder)), name="x")


def test_a_pooler_that_is_not_used_may_be_missing(config, folder):
    expected = Teacher(config(model=str(folder))).encode(TEXTS)
    rewritten(folder, lambda tensors: {name: t for name, t in tensors.items() if "pooler" not in name})
    np.testing.assert_array_equal(Teacher(config(model=str(folder))).encode(TEXTS), expected)


def test_every_side_of_a_router_is_asked(config, folder, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Router, Transformer

    def modules():
        return [Transformer(str(folder)), Pooling(32)]

    routed = SentenceTransformer(modules=[Router.for_query_document(modules(), modules())], device="cpu")
    routed.save(str(tmp_path / "r"), create_model_card=False)
    query = next(place for place in (tmp_path / "r").iterdir() if place.name.startswith("query_0"))
    rewritten(query, lambda tensors: {name: t for name, t in tensors.items() if "position" not in name})
    with pytest.raises(UserError, match=r"lack 1 tensors \(embeddings.position_embeddings.weight\)"):
        Teacher(config(model=str(tmp_path / "r")))


def test_tensors_of_another_architecture_are_refused_and_those_of_other_tasks_are_not(config, folder):
    import torch

    expected = Teacher(config(model=str(folder))).encode(TEXTS)
    heads = {"cls.predictions.bias": torch.zeros(3), "classifier.weight": torch.zeros(2, 2)}
    rewritten(folder, lambda tensors: {**tensors, **heads, "embeddings.position_ids": torch.arange(4)})
    np.testing.assert_array_equal(Teacher(config(model=str(folder))).encode(TEXTS), expected)
    change(folder / "config.json", auto_map={"AutoModel": "modeling.Own"})
    rewritten(folder, lambda tensors: {**tensors, "encoder.layer.1.mlp.gated.weight": torch.zeros(2, 2)})
    said = r"have 1 tensors unknown to BertModel \(encoder.*gated.weight\).*trust_remote_code: true"
    with pytest.raises(UserError, match=said):
        Teacher(config(model=str(folder)))


def test_first_names_of_norms_are_read(config, folder):
    expected = Teacher(config(model=str(folder))).encode(TEXTS)
    first = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def renamed(name):
        return next((name.replace(new, old) for new, old in first.items() if new in name), name)

    rewritten(folder, lambda tensors: {f"bert.{renamed(name)}": t for name, t in tensors.items()})
    np.testing.assert_array_equal(Teacher(config(model=str(folder))).encode(TEXTS), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(config, folder, value):
    rewritten(folder, lambda tensors: {n: t.fill_(value) if "intermediate" in n else t for n, t in tensors.items()})
    with pytest.raises(UserError, match=r"4 of its tensors contain NaN or infinite numbers \(.*precision: float32"):
        Teacher(config(model=str(folder)))


def test_weights_of_other_numbers_and_shapes_are_refused(config, folder):
    rewritten(folder, lambda tensors: {n: t[:2] if "pooler" not in n else t for n, t in tensors.items()})
    with pytest.raises(UserError, match=r"cannot be loaded: .*mismatch"):
        Teacher(config(model=str(folder)))
    rewritten(folder, lambda tensors: {n: t.char() if "word" in n else t for n, t in tensors.items()})
    with pytest.raises(UserError, match=r"teachers.x: .*1 of type I8 \(embeddings.word"):
        check_folder(config(model=str(folder)), where="teachers.x")


def test_pickled_weights_are_read_without_running_code(config, folder, tmp_path):
    import torch
    from safetensors.torch import load_file

    expected = Teacher(config(model=str(folder)))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    teacher = Teacher(config(model=str(folder)))
    np.testing.assert_array_equal(teacher.encode(TEXTS), expected.encode(TEXTS))
    assert teacher.description["weight_hash"] != expected.description["weight_hash"]

    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Runs()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="Use a folder with safetensors"):
        Teacher(config(model=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_behind_the_model_is_looked_at_too(config, folder, tmp_path):
    import torch

    add_module(folder, "sentence_transformers.models.Dense", "3_Dense")
    activation = "torch.nn.modules.linear.Identity"
    change(folder / "3_Dense/config.json", in_features=32, out_features=8, bias=False, activation_function=activation)
    torch.save({"linear.weight": torch.ones(8, 32)}, folder / "3_Dense/pytorch_model.bin")
    assert Teacher(config(model=str(folder))).width == 8
    torch.save({"linear.weight": torch.ones(8, 32, dtype=torch.int32)}, folder / "3_Dense/pytorch_model.bin")
    with pytest.raises(UserError, match=r"3_Dense.*1 of type int32"):
        check_folder(config(model=str(folder)), where="teachers.x")
    (folder / "3_Dense/pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"3_Dense: has no model\.safetensors"):
        check_folder(config(model=str(folder)), where="teachers.x")


@pytest.mark.parametrize("how", ["module", "activation", "auto_map", "tokenizer", "router"])
def test_code_of_a_folder_does_not_run_unasked(config, folder, tmp_path, how):
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w')\nfrom sentence_transformers.models import Pooling as Evil\n"
    (folder / "evil.py").write_text(code)
    if how == "module":
        add_module(folder, "evil.Evil", "1_Pooling")
    if how == "activation":
        add_module(folder, "sentence_transformers.models.Dense", "3_Dense")
        change(folder / "3_Dense/config.json", in_features=32, out_features=8, activation_function="evil.Evil")
    if how == "auto_map":
        change(
            folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}
        )
    if how == "tokenizer":
        change(
            folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map={"AutoTokenizer": ["evil.Evil", None]}
        )
    if how == "router":
        add_module(folder, "sentence_transformers.models.Router", "3_Router")
        change(folder / "3_Router/router_config.json", types={"query_0": "evil.Evil"}, structure={"query": ["query_0"]})
    try:
        Teacher(config(model=str(folder)))
    except UserError as error:
        assert "trust_remote_code" in str(error)  # noqa: PT017 (a tokenizer may be read without its code)
    assert not mark.exists()


def test_what_makes_no_vector_is_reported(config, folder):
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(listed[:1]))
    with pytest.raises(UserError, match=r"loaded but cannot encode a text"):
        Teacher(config(model=str(folder)))


@pytest.mark.parametrize("file", ["config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json"])
@pytest.mark.parametrize("content", ["", "[1", "[]", '"x"', "{}"])
def test_damaged_json_is_reported_in_a_paragraph(config, folder, file, content):
    (folder / file).write_text(content)
    try:
        Teacher(config(model=str(folder)))
    except UserError as error:
        said = str(error)
        assert len(said.splitlines()) == 1


def test_a_store_is_not_continued_with_another_tokenizer_or_configuration(config, folder, store):
    config = config(model=str(folder), prompts={"query": "", "document": ""})
    embed(config, store.path, name="t")
    manifest = store.path / "teachers/t/manifest.json"
    assert {"weight_hash", "tokenizer_hash", "config_hash"} <= set(json.loads(manifest.read_text())["description"])
    change(folder / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(UserError, match="have other settings: tokenizer_hash is"):
        embed(config, store.path, name="t")
    change(folder / "tokenizer_config.json", do_lower_case=True)
    change(folder / "config.json", layer_norm_eps=1e-3)
    with pytest.raises(UserError, match="have other settings: config_hash is"):
        embed(config, store.path, name="t")


def test_a_store_from_before_these_hashes_still_opens(config, folder, store):
    config = config(model=str(folder), shard_rows=4)
    embed(config, store.path, name="t")
    for file in ("manifest.json", "plan.json"):
        path = store.path / "teachers/t" / file
        content = json.loads(path.read_text())
        for name in ("tokenizer_hash", "config_hash"):
            del content["description"][name]
        path.write_text(json.dumps(content))
    assert Store.open(store.path).teachers == ("t",)
    embed(config, store.path, name="t")
    (store.path / "teachers/t/manifest.json").unlink()
    embed(config, store.path, name="t")
    assert Store.open(store.path).teachers == ("t",)


def test_folders_are_looked_at_without_torch(config, folder, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from jdistill.teacher import TeacherConfig, check_folder;"
        f"check_folder(TeacherConfig(model={str(folder)!r}), where='x');"
        f"check_folder(TeacherConfig(model={str(tiny_static_folder(tmp_path / 's'))!r}), where='x');"
        "assert not {'torch', 'transformers', 'sentence_transformers', 'datasets', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_teacher_without_any_vocabulary_is_refused(config, folder):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"teachers\.x: .* has no tokenizer\.json and no other vocabulary"):
        Teacher(config(model=str(folder)), name="x")
