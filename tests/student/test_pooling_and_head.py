"""Pooling, head and normalisation: chosen, inherited, refused; and read from folders that others wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jdistill
from jdistill.config import UserError, parse
from jdistill.student import StudentConfig, make_student
from jdistill.student.head import Normalize
from jdistill.student.hf_folder import read_folder
from jdistill.student.pooling import Activation, SparseVocabulary, Splade
from tests.tiny import SENTENCES, tiny_bert_folder

ACTIVATION, SPARSE, SPLADE = ({"kind": kind} for kind in ("activation", "sparse_vocabulary", "splade"))
NARROW, WIDE = ({"kind": "dense", "out_features": n} for n in (8, 48))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"), layers=1, hidden=16, max_length=32, masked_lm=True)


def _make(folder, teacher_widths=None, **options):
    config = parse(StudentConfig, {"init": str(folder), **options}, where="student")
    return make_student(config, teacher_widths=teacher_widths or {}, key=jax.random.key(0))


def _kinds(student):
    return [module.kind for module in student.config.head]


def test_a_chain_of_dense_layers_is_random_and_its_widths_inferred(bert):
    student, params = _make(bert, head=[WIDE, {**NARROW, "activation": "gelu"}], normalize=True)
    assert _kinds(student) == ["dense", "dense", "normalize"]
    assert jax.tree.map(np.shape, params["head"]["0"]) == {"kernel": (16, 48), "bias": (48,)}
    assert jax.tree.map(np.shape, params["head"]["1"]) == {"kernel": (48, 8), "bias": (8,)}
    assert (student.width, student.normalizes, student.sparse) == (8, True, False)


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ({}, ["normalize"]),  # as the folder says
        ({"normalize": False}, []),
        ({"head": []}, []),
        ({"head": [], "normalize": True}, ["normalize"]),
        ({"head": [{"kind": "normalize"}], "normalize": True}, ["normalize"]),
        ({"pooling": ACTIVATION}, ["normalize"]),
        ({"pooling": SPARSE}, []),
        ({"pooling": SPARSE, "normalize": True}, ["normalize"]),
    ],
)
def test_head_and_normalize_together(bert, options, kinds):
    assert _kinds(_make(bert, **options)[0]) == kinds


def test_a_random_student_has_the_same_choices(bert):
    encoder = {"kind": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    student, params = _make(bert, init=None, encoder=encoder, tokenizer=str(bert), pooling=SPLADE)
    assert student.config.head == []
    assert student.sparse
    assert student.width == student.tokenizer.vocab_size == params["pooling"]["0"]["bias"].shape[0]
    student, _ = _make(bert, init=None, encoder=encoder, tokenizer=str(bert), pooling=["mean", "cls"])
    assert (student.width, student.config.head) == (16, [Normalize()])


def test_splade_takes_the_head_of_the_masked_language_model(bert, tmp_path):
    from transformers import AutoModelForMaskedLM

    _, params = _make(bert, pooling=SPLADE)
    theirs = AutoModelForMaskedLM.from_pretrained(bert).cls.predictions
    own = params["pooling"]["0"]
    np.testing.assert_array_equal(own["dense"]["kernel"], theirs.transform.dense.weight.detach().numpy().T)
    np.testing.assert_array_equal(own["bias"], theirs.bias.detach().numpy())
    assert set(own) == {"dense", "norm", "bias"}
    with pytest.raises(UserError, match="needs the head of a masked language model, but"):
        _make(tiny_bert_folder(tmp_path, layers=1, hidden=16), pooling=SPLADE)


def test_special_tokens_are_left_out_of_a_sparse_vocabulary(bert):
    student, _ = _make(bert, pooling=SPARSE)
    assert student.config.pooling == [SparseVocabulary(excluded=[0, 1, 2, 3, 4])]
    student, _ = _make(bert, pooling={**SPARSE, "excluded": []})
    assert student.config.pooling == [SparseVocabulary(excluded=[])]


def test_a_pooling_that_init_has_keeps_its_parameters(bert, tmp_path):
    from jdistill.export.hf import export_model

    student, params = _make(bert, pooling=["cls", ACTIVATION])
    params["pooling"]["1"]["linear"]["kernel"] = jnp.arange(16.0)[:, None]
    out = export_model(student, params, tmp_path / "out")
    for pooling in (None, ["cls", ACTIVATION], ["max", ACTIVATION]):
        again, kept = _make(out, pooling=pooling)
        assert again.config.pooling[1] == Activation()
        np.testing.assert_array_equal(kept["pooling"]["1"]["linear"]["kernel"], jnp.arange(16.0)[:, None])
    _, fresh = _make(out, pooling=["cls", {**ACTIVATION, "bias": False}])
    assert set(fresh["pooling"]["1"]["linear"]) == {"kernel"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pooling": []}, "empty list"),
        ({"pooling": [ACTIVATION, "mean"]}, r"without parameters \(mean\) must come first"),
        ({"pooling": ["mean", SPARSE]}, "cannot be combined"),
        ({"pooling": ACTIVATION, "encoder": {"kind": "static"}}, "a static embedding is averaged"),
        ({"include_prompt": False, "encoder": {"kind": "static"}}, "a static embedding pools all tokens"),
        ({"include_prompt": False, "pooling": ACTIVATION}, r"\['activation'\] pools all tokens"),
        ({"pooling": "median"}, "should be 'mean', 'cls'"),
        ({"pooling": {"kind": "activatoin"}}, "Did you mean 'activation'"),
        ({"pooling": {"kind": "latent_attention", "heads": 5}}, "5 heads"),
        ({"head": [{**NARROW, "in_features": 7}]}, "has in_features 7, but its input has width 16"),
        ({"head": [{"kind": "normalize"}], "normalize": False}, "ends with 'normalize'"),
        ({"head": [{**NARROW, "activation": "step"}]}, r"head\.0\.activation: is 'step'"),
    ],
)
def test_what_does_not_go_together_is_reported(bert, options, says):
    with pytest.raises(UserError, match=says):
        _make(bert, **options)


@pytest.mark.parametrize("projection", ["auto", "linear", "none"])
def test_sparse_vectors_are_not_projected(bert, projection):
    with pytest.raises(UserError, match="compare scores instead of vectors, such as info_nce"):
        _make(bert, {"teacher": 24}, pooling=SPARSE, projection=projection)
    student, _ = _make(bert, {}, pooling=SPARSE, projection="auto")
    student, params = _make(bert, {"teacher": student.width}, pooling=SPARSE, projection="auto")
    assert "projection" not in params
    assert student.config.projections == {}


@pytest.mark.parity
def test_a_sparse_encoder_as_sentence_transformers_saves_it(bert, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    transformer = Transformer(str(bert), transformer_task="fill-mask")
    theirs = st.SparseEncoder(modules=[transformer, SpladePooling("sum", "log1p_relu")], device="cpu")
    theirs.save(str(tmp_path), create_model_card=False)
    model = jdistill.load(tmp_path)
    assert model.student.config.pooling == [Splade(strategy="sum", activation="log1p_relu")]
    expected = theirs.encode(list(SENTENCES)).to_dense().numpy()
    np.testing.assert_allclose(model.encode(list(SENTENCES)), expected, atol=1e-5)


@pytest.mark.parity
def test_a_chain_as_sentence_transformers_saves_it(bert, tmp_path):
    st = pytest.importorskip("sentence_transformers")
    import torch
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

    modules = [
        Transformer(str(bert)),
        Pooling(16, ("mean", "max")),
        Dense(32, 8, activation_function=torch.nn.SiLU(), use_residual=True),
        LayerNorm(8),
        Dense(8, 8, bias=False, use_residual=True),
        Normalize(),
    ]
    theirs = st.SentenceTransformer(modules=modules, device="cpu")
    theirs.save(str(tmp_path), create_model_card=False)
    model = jdistill.load(tmp_path)
    assert _kinds(model.student) == ["dense", "layer_norm", "dense", "normalize"]
    np.testing.assert_allclose(model.encode(list(SENTENCES)), theirs.encode(list(SENTENCES)), atol=1e-5)


def test_scores_of_the_vocabulary_are_not_pooled_as_hidden_states(bert, tmp_path):
    import json
    import shutil

    folder = shutil.copytree(bert, tmp_path / "copy")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"transformer_task": "fill-mask"}))
    with pytest.raises(UserError, match="transformer_task is 'fill-mask'"):
        read_folder(folder)
