"""Students from folders of every generation, from other architectures' tables, and at random."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

import jdistill
from jdistill.config import UserError
from jdistill.export.hf import export_model
from jdistill.folders import read_tensors
from jdistill.student import Prompts, StudentConfig, load_architecture, make_student, save_architecture, to_hf_tensors
from jdistill.student.head import Dense, Normalize
from jdistill.student.hf_folder import locate, read_folder
from jdistill.types import Tokens
from tests.tiny import VOCABULARY, tiny_bert_folder, tiny_static_folder

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"), prompts={"query": "q: "})


@pytest.fixture
def copy(bert, tmp_path):
    return shutil.copytree(bert, tmp_path / "copy")


def _make(teacher_widths=None, **options):
    return make_student(StudentConfig(**options), teacher_widths=teacher_widths or {}, key=KEY)


def _edit(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**content, **changes}))


def _modules(folder, *modules):
    rows = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(rows))


def _dense(folder, name="2_Dense", **changes):
    shape = (6, 32)
    config = {
        "in_features": 32,
        "out_features": 6,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(config | changes))
    rng = np.random.default_rng(0)
    tensors = {"linear.weight": rng.normal(size=shape), "linear.bias": rng.normal(size=shape[0])}
    save_file({key: value.astype(np.float32) for key, value in tensors.items()}, folder / name / "model.safetensors")


def test_a_student_takes_over_what_is_left_out(bert):
    student, params = _make(init=str(bert))
    assert student.config.pooling == ["mean"]
    assert student.normalizes
    assert (student.width, student.max_length) == (32, 64)
    assert student.prompts == Prompts(query="q: ")
    assert set(params) == {"encoder"}


def test_options_replace_what_the_folder_says(bert):
    student, _ = _make(
        init=str(bert),
        pooling=["cls", "max"],
        normalize=False,
        max_length=9,
        prompts={"query": "Q: "},
        keep_layers=[0, 2],
    )
    assert student.config.pooling == ["cls", "max"]
    assert not student.normalizes
    assert (student.width, student.max_length, student.prompts.query) == (64, 9, "Q: ")
    assert student.config.encoder.num_hidden_layers == 2


def test_plain_folder_is_pooled_by_mean(tmp_path):
    folder = tiny_bert_folder(tmp_path, sentence_transformers=False)
    found = read_folder(folder)
    assert (found.pooling, found.head, found.max_length) == (["mean"], [], 64)
    assert _make(init=str(folder))[0].normalizes


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ["cls"]),
        ({"pooling_mode_lasttoken": True, "pooling_mode_max_tokens": True}, ["max", "mean", "lasttoken"]),
        ({"pooling_mode": "mean_sqrt_len_tokens"}, ["mean_sqrt_len"]),
        ({"pooling_mode": ["weightedmean", "cls"]}, ["weightedmean", "cls"]),
    ],
)
def test_pooling_of_every_generation(copy, config, modes):
    _edit(copy / "1_Pooling" / "config.json", **config)
    assert read_folder(copy).pooling == modes


def test_module_types_of_later_releases(copy):
    base = "sentence_transformers"
    _modules(
        copy,
        ("", f"{base}.base.modules.transformer.Transformer"),
        ("1_Pooling", f"{base}.sentence_transformer.modules.pooling.Pooling"),
        ("2_Normalize", f"{base}.base.modules.normalize.Normalize"),
    )
    assert read_folder(copy).head == [Normalize()]


def test_length_from_either_file_and_never_beyond_the_positions(copy):
    (copy / "sentence_bert_config.json").unlink()
    _edit(copy / "tokenizer_config.json", model_max_length=20)
    assert read_folder(copy).max_length == 20
    _edit(copy / "sentence_bert_config.json", max_seq_length=30)
    assert read_folder(copy).max_length == 30
    _edit(copy / "sentence_bert_config.json", max_seq_length=999)
    assert read_folder(copy).max_length == 64
    _edit(copy / "sentence_bert_config.json", max_seq_length=None)
    _edit(copy / "tokenizer_config.json", model_max_length=int(1e30))
    assert read_folder(copy).max_length == 64


def test_dense_and_normalize_in_any_order(copy):
    _dense(copy)
    st = "sentence_transformers.models"
    _modules(
        copy,
        ("", f"{st}.Transformer"), ("1_Pooling", f"{st}.Pooling"), ("3_Normalize", f"{st}.Normalize"),
        ("2_Dense", f"{st}.Dense"), ("4_Normalize", f"{st}.Normalize"),
    )  # fmt: skip
    student, params = _make(init=str(copy))
    assert student.config.head == [Normalize(), Dense(in_features=32, out_features=6), Normalize()]
    assert student.width == 6
    np.testing.assert_array_equal(
        params["head"]["1"]["kernel"].T, load_file(copy / "2_Dense" / "model.safetensors")["linear.weight"]
    )
    assert _make(init=str(copy), normalize=False)[0].config.head[-1] == student.config.head[1]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("sentence_transformers.models.WordWeights", "WordWeights"),
        ("modeling_own.Head", "modeling_own"),
        ("sentence_transformers.models.Pooling", "follows the pooling"),
    ],
)
def test_unsupported_modules_are_named(copy, module, words):
    st = "sentence_transformers.models"
    _modules(copy, ("", f"{st}.Transformer"), ("1_Pooling", f"{st}.Pooling"), ("2_X", module))
    with pytest.raises(UserError, match=words):
        read_folder(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "torch.nn.modules.activation.ELU"},
        {"activation_function": "os.system"},
        {"use_residual": True},
        {"bias": False},
        {"out_features": 5},
        {"module_input_name": "token_embeddings"},
    ],
)
def test_unsupported_dense_is_refused(copy, changes):
    _dense(copy, **changes)
    st = "sentence_transformers.models"
    _modules(copy, ("", f"{st}.Transformer"), ("1_Pooling", f"{st}.Pooling"), ("2_Dense", f"{st}.Dense"))
    with pytest.raises(UserError):
        read_folder(copy)


def test_a_path_out_of_the_folder_is_refused(copy):
    _modules(copy, ("../other", "sentence_transformers.models.Transformer"))
    with pytest.raises(UserError, match="is outside"):
        read_folder(copy)


def test_pickled_weights_under_their_first_names_make_the_same_student(copy, bert):
    import torch
    from safetensors.torch import load_file

    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        read_folder(copy)
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    pickled = {}
    for key, value in load_file(bert / "model.safetensors").items():
        for new, old in names.items():
            key = key.replace(new, old)
        pickled[f"bert.{key}"] = value
    torch.save(pickled, copy / "pytorch_model.bin")
    _, ours = _make(init=str(copy))
    _, theirs = _make(init=str(bert))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_sharded_and_half_precision_weights(copy):
    tensors = read_tensors(copy)
    halves = {key: np.asarray(jnp.asarray(value, jnp.bfloat16)) for key, value in tensors.items()}
    names = sorted(halves)
    for file, keys in {"a.safetensors": names[:20], "b.safetensors": names[20:]}.items():
        save_file({key: np.ascontiguousarray(halves[key]) for key in keys}, copy / file)
    (copy / "model.safetensors").unlink()
    index = {key: "a.safetensors" if key in names[:20] else "b.safetensors" for key in names}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    student, params = _make(init=str(copy))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    ours = to_hf_tensors(student, params)
    for key in ours:
        np.testing.assert_array_equal(ours[key], halves[key].astype(np.float32))


def test_round_trip_through_a_student(bert):
    student, params = _make(init=str(bert))
    theirs = {key: value for key, value in read_tensors(bert).items() if not key.startswith("pooler")}
    ours = to_hf_tensors(student, params)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[key], value) for key, value in theirs.items())


def test_static_from_words_of_a_bert(bert):
    student, params = _make(init=str(bert), encoder={"kind": "static"}, normalize=False)
    words = read_tensors(bert)["embeddings.word_embeddings.weight"]
    np.testing.assert_array_equal(params["encoder"]["words"], words)
    (ids,) = student.tokenizer.encode(["the cat"], student.max_length)
    assert ids == [VOCABULARY.index("the"), VOCABULARY.index("cat")]
    tokens = Tokens(jnp.array([[*ids, 0], [0, 0, 0]]), jnp.array([[True, True, False], [False] * 3]))
    vectors = student.encode(params, tokens)
    np.testing.assert_allclose(vectors, [words[ids].mean(0), np.zeros(32)], rtol=1e-6)
    assert list(to_hf_tensors(student, params)) == ["embedding.weight"]


def test_static_from_a_static_embedding_and_from_model2vec(tmp_path):
    folder = tiny_static_folder(tmp_path / "st", width=8)
    table = load_file(folder / "0_StaticEmbedding" / "model.safetensors")["embedding.weight"]
    student, params = _make(init=str(folder))
    np.testing.assert_array_equal(params["encoder"]["words"], table)
    assert not student.normalizes
    mapping = np.arange(len(table))[::-1].astype(np.int64)
    parts = {"embeddings": table, "mapping": mapping.copy(), "weights": np.full(len(table), 2.0, np.float32)}
    save_file(parts, folder / "0_StaticEmbedding" / "model.safetensors")
    np.testing.assert_array_equal(_make(init=str(folder))[1]["encoder"]["words"], 2 * table[::-1])


@pytest.mark.parametrize(
    "encoder",
    [{"kind": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}, {"kind": "static"}],
)
def test_random_students(bert, encoder):
    student, params = _make(tokenizer=str(bert), encoder=encoder)
    assert student.config.encoder.vocab_size == len(VOCABULARY)
    assert student.normalizes
    again = _make(tokenizer=str(bert), encoder=encoder)[1]
    jax.tree.map(np.testing.assert_array_equal, params, again)
    vectors = student.encode(params, Tokens(jnp.array([[5, 6]]), jnp.ones((1, 2), bool)))
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_projections_are_made_where_they_are_needed(bert):
    widths = {"same": 32, "wide": 48, "narrow": 8}
    student, params = _make(widths, init=str(bert))
    assert set(params["projection"]) == {"wide", "narrow"}
    vectors = jax.random.normal(KEY, (3, 32))
    assert student.project(params, vectors, "same") is vectors
    wide = student.project(params, vectors, "wide")
    np.testing.assert_allclose(wide @ wide.T, vectors @ vectors.T, rtol=1e-4, atol=1e-4)
    assert student.project(params, vectors, "narrow").shape == (3, 8)
    _, params = _make(widths, init=str(bert), projection="linear")
    np.testing.assert_array_equal(params["projection"]["same"]["kernel"], np.eye(32))
    assert "projection" not in _make(widths, init=str(bert), projection="none")[1]


def test_architecture_is_read_back(bert, tmp_path):
    student, params = _make({"t": 48}, init=str(bert), dropout=0.1, prompts={"document": "d: "})
    save_architecture(student, tmp_path)
    again = load_architecture(tmp_path)
    assert again.config == student.config
    assert again.tokenizer.fingerprint == student.tokenizer.fingerprint
    tokens = Tokens(jnp.array([[5, 6]]), jnp.ones((1, 2), bool))
    np.testing.assert_array_equal(again.encode(params, tokens), student.encode(params, tokens))
    with pytest.raises(UserError, match=r"student\.json"):
        load_architecture(bert)


def test_dropout_is_off_by_default_and_on_when_asked_for(bert):
    tokens = Tokens(jnp.array([[5, 6, 7]]), jnp.ones((1, 3), bool))
    student, params = _make(init=str(bert))
    np.testing.assert_array_equal(student.encode(params, tokens, dropout_key=KEY), student.encode(params, tokens))
    student, params = _make(init=str(bert), dropout=0.2)
    assert not np.allclose(student.encode(params, tokens, dropout_key=KEY), student.encode(params, tokens))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep_layers": [7]}, "3 layers"),
        ({"max_length": 65}, "64 tokens"),
        (
            {"encoder": {"kind": "bert", "hidden_size": 16, "num_attention_heads": 1}},
            "hidden_size is 16, but init has 32",
        ),
        ({"encoder": {"kind": "static"}, "pooling": "cls"}, "averaged"),
        ({"encoder": {"kind": "static"}, "keep_layers": [0]}, "no layers"),
    ],
)
def test_contradictions_are_reported(bert, options, words):
    with pytest.raises(UserError, match=words):
        _make(init=str(bert), **options)


def test_a_beginning_is_needed():
    with pytest.raises(ValidationError, match="model to start from"):
        StudentConfig()
    with pytest.raises(ValidationError, match="keep_layers"):
        StudentConfig(encoder={"kind": "static"}, tokenizer="x", keep_layers=[0])


def test_a_foreign_tokenizer_is_refused(bert, tmp_path):
    from tests.tiny import write_tokenizer

    write_tokenizer(tmp_path, vocab=(*VOCABULARY, "more"))
    with pytest.raises(UserError, match="114 tokens"):
        _make(init=str(bert), tokenizer=str(tmp_path))


def test_what_is_no_folder_and_no_hub_id_is_refused():
    for name in ("./nowhere", "a/b/c", "/nowhere"):
        with pytest.raises(UserError, match="no such folder"):
            locate(name)
    with pytest.raises(UserError, match="from the Hugging Face hub failed"):
        locate("nobody-here/no-such-model")


def test_a_model_of_another_type_is_refused(copy):
    _edit(copy / "config.json", model_type="gpt2")
    with pytest.raises(UserError, match="gpt2"):
        read_folder(copy)


def test_prompts_of_the_recipe_win_and_an_empty_one_is_none(copy):
    settings = {"prompts": {"query": None, "passage": "p: ", "other": "o: "}, "similarity_fn_name": "dot"}
    _edit(copy / "config_sentence_transformers.json", **settings, default_prompt_name="other")
    taken, _ = _make(init=str(copy))
    assert taken.prompts == Prompts(document="p: ")
    assert taken.all_prompts == {"query": "", "passage": "p: ", "other": "o: ", "document": "p: "}
    none, _ = _make(init=str(copy), prompts={"document": ""})
    assert none.prompts == Prompts()
    assert none.all_prompts == {"query": "", "passage": "", "other": "o: ", "document": ""}
    export_model(*_make(init=str(copy)), copy / "out")
    written = json.loads((copy / "out/config_sentence_transformers.json").read_text())
    assert written["prompts"] == taken.all_prompts
    assert (written["default_prompt_name"], written["similarity_fn_name"]) == ("other", "dot")


def test_a_pooling_without_its_config_and_one_with_unknown_options_are_refused(copy):
    _edit(copy / "1_Pooling/config.json", pooling_mode_attention=True)
    with pytest.raises(UserError, match="pooling_mode_attention = True, which is not supported"):
        _make(init=str(copy))
    (copy / "1_Pooling/config.json").unlink()
    with pytest.raises(UserError, match=r"1_Pooling/config\.json: is missing"):
        _make(init=str(copy))


@pytest.mark.parametrize(
    ("architecture", "causal", "pooling"),
    [("BertForCausalLM", None, "lasttoken"), ("BertForCausalLM", False, "mean"), ("BertModel", None, "mean")],
)
def test_plain_causal_folders_are_pooled_by_their_last_token(copy, architecture, causal, pooling):
    (copy / "modules.json").unlink()
    _edit(copy / "config.json", architectures=[architecture], **({} if causal is None else {"is_causal": causal}))
    assert _make(init=str(copy))[0].config.pooling == [pooling]


def test_tokens_beyond_the_table_are_refused_in_texts_only(copy):
    rows = json.loads((copy / "config.json").read_text())["vocab_size"]
    definition = json.loads((copy / "tokenizer.json").read_text())
    token = {"id": rows, "content": "<image>", "single_word": False, "lstrip": False, "rstrip": False}
    definition["added_tokens"].append({**token, "normalized": False, "special": True})
    (copy / "tokenizer.json").write_text(json.dumps(definition))
    student, _ = _make(init=str(copy))
    assert student.tokenizer.encode(["the cat"], None)
    for tokenizer in (student.tokenizer, jdistill.load(copy).student.tokenizer):
        with pytest.raises(UserError, match=f"'a <image>' has the token '<image>' with id {rows}"):
            tokenizer.encode(["the cat", "a <image>"], None)


def test_a_told_length_counts_as_it_is_where_positions_are_computed(copy):
    assert _make(init=str(copy))[0].max_length == 64
    _edit(copy / "sentence_bert_config.json", max_seq_length=48, processor_kwargs={"model_max_length": 32})
    assert _make(init=str(copy))[0].max_length == 32
    _edit(copy / "sentence_bert_config.json", max_seq_length=4096, processor_kwargs=None)
    assert _make(init=str(copy))[0].max_length == 64
