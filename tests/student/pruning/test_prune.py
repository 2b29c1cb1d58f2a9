"""Students made smaller, from a folder to vectors and to an export."""

import jax
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.export.hf import export_model
from jdistill.model import Model, load
from jdistill.student import Corpus, StudentConfig, make_student
from jdistill.student.pooling.splade import Splade
from jdistill.student.pruning.behind import check_behind, tokens_behind
from jdistill.student.student import encoder_shapes
from tests.tiny import SENTENCES, VOCABULARY, WORDS, tiny_bert_folder, tiny_static_folder

TEXTS = [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % 30] for j in range(3 + i % 9)) for i in range(80)]
ALL = {"keep_layers": 2, "width": {"to": 24}, "intermediate": 40, "vocabulary": {"size": 90}}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


def _make(folder, said=None, texts=TEXTS, **options):
    config = StudentConfig.model_validate({"init": str(folder), **options})
    corpus = None if texts is None else lambda _: Corpus.of(texts)
    say = None if said is None else said.append
    return make_student(config, teacher_widths={"big": 48}, key=jax.random.key(0), corpus=corpus, say=say)


@pytest.fixture(scope="module")
def smaller(bert):
    said = []
    return *_make(bert, said, **ALL), said


def test_everything_at_once_has_the_sizes_that_were_asked_for(smaller):
    student, params, _ = smaller
    encoder = student.config.encoder
    sizes = (encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads, encoder.intermediate_size)
    assert sizes == (2, 24, 3, 40)
    assert student.tokenizer.vocab_size == encoder.vocab_size == 90
    shapes = jax.tree.map(lambda x: x.shape, encoder_shapes(student.config))
    assert jax.tree.map(lambda x: x.shape, params["encoder"]) == shapes
    assert params["projection"]["big"]["kernel"].shape == (24, 48)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))


def test_it_is_said_what_was_kept_and_how_large_it_was_and_is(smaller, bert):
    _, params, (said,) = smaller
    count = sum(x.size for x in jax.tree.leaves(params["encoder"]))
    whole = sum(x.size for x in jax.tree.leaves(_make(bert)[1]["encoder"]))
    assert said.startswith(f"{bert} of {whole / 1e6:.2f}M parameters, ")
    for part in (
        "layers 0 2 of 3",
        f"90 of {len(VOCABULARY)} tokens",
        "width 24 of 32 by importance",
        "3 of 4 heads in each layer",
        "40 of 64 neurons in each layer",
    ):
        assert part in said
    assert said.endswith(f": {count / 1e6:.2f}M parameters, {90 * 24 / 1e6:.2f}M of them words")


def test_the_same_texts_give_the_same_student(smaller, bert):
    student, params, _ = smaller
    again, same = _make(bert, **ALL)
    assert again.config == student.config
    assert again.tokenizer.fingerprint == student.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parity
def test_an_export_is_what_the_libraries_load(smaller, tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    student, params, _ = smaller
    export_model(student, params, tmp_path)
    texts = [*SENTENCES, "é☃ unheard of"]
    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    vectors = Model(student, params).encode(texts)
    np.testing.assert_allclose(theirs.encode(texts), vectors, atol=1e-5)
    np.testing.assert_allclose(load(tmp_path).encode(texts), vectors, atol=1e-6)
    ids = AutoTokenizer.from_pretrained(tmp_path)(texts)["input_ids"]
    assert ids == student.tokenizer.encode(texts, None)
    assert theirs.tokenizer.pad_token_id == student.tokenizer.pad_id


def test_covered_texts_have_the_vectors_of_the_whole_model(bert):
    whole, params = _make(bert)
    student, smaller = _make(bert, vocabulary={"min_count": 2})
    assert student.tokenizer.vocab_size < whole.tokenizer.vocab_size
    np.testing.assert_allclose(Model(student, smaller).encode(TEXTS), Model(whole, params).encode(TEXTS), atol=1e-6)


def test_a_table_of_words_with_fewer_tokens_and_dimensions(bert, tmp_path):
    said = []
    static = {"encoder": {"kind": "static"}, "normalize": True}
    whole, words = _make(bert, **static)
    student, params = _make(bert, said, width={"to": 20}, vocabulary={"size": 90}, **static)
    assert params["encoder"]["words"].shape == (90, 20)
    assert "its table of words" in said[0]
    assert "width 20 of 32 by pca" in said[0]
    kept = np.asarray(words["encoder"]["words"])[[whole.tokenizer.ids[token] for token in student.tokenizer.ids]]
    narrow = np.asarray(params["encoder"]["words"])[[*student.tokenizer.ids.values()]]
    squares = np.linalg.svd(kept, compute_uv=False) ** 2
    np.testing.assert_allclose(np.square(narrow).sum(), squares[:20].sum(), rtol=1e-5)
    # No texts are needed for a width alone, and of a table without that many directions nothing is lost.
    folder = tiny_static_folder(tmp_path, width=16, vocab=VOCABULARY[:12])
    student, params = _make(folder, texts=None, width={"to": 12, "by": "pca"})
    whole, words = _make(folder, texts=None)
    near, old = (Model(s, p).encode(["the cat", "a dog is", "the"]) for s, p in ((student, params), (whole, words)))
    np.testing.assert_allclose(near @ near.T, old @ old.T, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary": {"size": 500}}, "size: is 500, but the model has 113 tokens"),
        ({"encoder": {"kind": "static"}, "heads": 2}, "static embedding has no layers"),
        ({"encoder": {"kind": "static"}, "width": {"to": 8, "by": "importance"}}, "Set it to pca"),
        ({"keep_layers": 4}, "3 layers"),
        ({"encoder": {"kind": "static"}, "keep_layers": 1}, "no layers"),
    ],
)
def test_cuts_that_do_not_fit_are_refused(bert, options, words):
    with pytest.raises(UserError, match=words):
        _make(bert, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init": "x", "tokenizer": "y", "vocabulary": {"size": 5}}, "rebuilds the tokenizer of 'init'"),
        ({"encoder": {"kind": "bert"}, "tokenizer": "y", "width": {"to": 5}}, "'width' shrinks 'init'"),
        ({"encoder": {"kind": "bert"}, "tokenizer": "y", "vocabulary": {"size": 5}}, "'vocabulary' shrinks 'init'"),
    ],
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        StudentConfig.model_validate(options)


def test_without_texts_nothing_is_fitted(bert):
    with pytest.raises(ValueError, match="pass a corpus"):
        _make(bert, texts=None, intermediate=10)


def test_a_head_that_reads_the_whole_width_is_refused(bert, tmp_path):
    student, params = _make(bert, head=[{"kind": "dense", "out_features": 8}])
    export_model(student, params, tmp_path / "dense")
    with pytest.raises(UserError, match="has a dense module in its head"):
        _make(tmp_path / "dense", width={"to": 24})
    student, params = _make(tmp_path / "dense", width={"to": 24}, head=[{"kind": "dense", "out_features": 6}])
    assert params["head"]["0"]["kernel"].shape == (24, 6)
    student, params = _make(tmp_path / "dense", intermediate=40)
    assert params["head"]["0"]["kernel"].shape == (32, 8)


def test_the_head_of_a_language_model_loses_the_same_tokens_and_keeps_its_width(bert):
    student, _ = _make(bert, vocabulary={"size": 90})
    encoder, rng = student.config.encoder, np.random.default_rng(0)
    params = {"0": {**Splade().init(encoder.model_copy(update={"vocab_size": 113}), jax.random.key(0))}}
    params["0"] |= {"bias": rng.normal(size=113), "decoder": rng.normal(size=(113, 32))}
    tokens = np.arange(0, 113, 2)
    fewer = tokens_behind(params, tokens)
    np.testing.assert_array_equal(fewer["0"]["bias"], params["0"]["bias"][::2])
    np.testing.assert_array_equal(fewer["0"]["decoder"], params["0"]["decoder"][::2])
    assert fewer["0"]["dense"] is params["0"]["dense"]
    check_behind([Splade()], fewer, encoder.model_copy(update={"vocab_size": 57}), where="x")
    with pytest.raises(UserError, match="'splade' takes its parameters from x"):
        check_behind([Splade()], fewer, encoder.model_copy(update={"hidden_size": 24}), where="x")


def test_a_random_student_of_a_size_by_name_says_how_large_it_is(bert):
    said = []
    config = StudentConfig.model_validate({"tokenizer": str(bert), "encoder": {"kind": "bert", "size": "tiny"}})
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0), say=said.append)
    total = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    assert said == [f"random bert: {total:.2f}M parameters, {113 * 128 / 1e6:.2f}M of them words"]
    assert Model(student, params).encode(["the cat"]).shape == (1, 128)
