"""Models made smaller: what they keep, what they say, and the folder that a student starts from."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.export.hf import export_model
from jdistill.model import Model, load
from jdistill.student import PruneConfig, StudentConfig, make_student
from jdistill.student.build import describe_student, read_pretrained
from jdistill.student.pruning.prune import check_poolings, prune
from jdistill.student.pruning.texts import PruningTexts
from jdistill.student.student import encoder_shapes
from tests.tiny import SENTENCES, VOCABULARY, WORDS, tiny_bert_folder, tiny_static_folder

TEXTS = [" ".join(WORDS[(i * 7 + j * (1 + i % 5)) % 30] for j in range(3 + i % 9)) for i in range(80)]
ALL = {"keep_layers": 2, "width": {"to": 24}, "intermediate": 40, "vocabulary": {"size": 90}}
RECORDED = np.load(Path(__file__).parent / "recorded.npz")
"""Vectors of SENTENCES by models that were pruned while a student was built, before pruning was a command."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"))


def _make(folder, cuts=None, texts=TEXTS, **options):
    """A student that starts from a folder or, with `cuts`, from what pruning leaves of it, and what was kept."""
    config = StudentConfig.model_validate({"init": str(folder), **options})
    model, kept = read_pretrained(config), []
    if cuts is not None:
        section = PruneConfig.model_validate({"init": str(folder), "output": "small", **cuts})
        start = config.model_copy(update={"keep_layers": section.keep_layers})
        model, kept = prune(section, start, model, PruningTexts.of(texts))
        config = config.model_copy(update={"encoder": None})
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0), pretrained=model)
    check_poolings(student.config, params, where=str(folder))
    return student, params, kept


@pytest.fixture(scope="module")
def smaller(bert):
    return _make(bert, ALL)


def test_everything_at_once_has_the_sizes_that_were_asked_for(smaller):
    student, params, _ = smaller
    encoder = student.config.encoder
    sizes = (encoder.num_hidden_layers, encoder.hidden_size, encoder.num_attention_heads, encoder.intermediate_size)
    assert sizes == (2, 24, 3, 40)
    assert student.tokenizer.vocab_size == encoder.vocab_size == 90
    shapes = jax.tree.map(lambda x: x.shape, encoder_shapes(student.config.encoder))
    assert jax.tree.map(lambda x: x.shape, params["encoder"]) == shapes
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(params))


def test_it_is_reported_what_was_kept(smaller):
    assert smaller[2] == [
        "layers 0 2 of 3",
        f"90 of {len(VOCABULARY)} tokens, covering 94.55% of the training texts' tokens",
        "width 24 of 32 by importance",
        "3 of 4 heads in each layer",
        "40 of 64 neurons in each layer",
    ]


def test_the_same_texts_give_the_same_model(smaller, bert):
    student, params, _ = smaller
    again, same, _ = _make(bert, ALL)
    assert again.config == student.config
    assert again.tokenizer.fingerprint == student.tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.optimized  # as recorded; the statistics of the sample round differently otherwise
@pytest.mark.parametrize(
    ("name", "cuts", "options"),
    [
        ("all", ALL, {}),
        ("pca", {"width": {"to": 16, "by": "pca"}}, {}),
        ("static", {"width": {"to": 20}, "vocabulary": {"size": 90}}, {"encoder": {"kind": "static"}}),
        ("sparse", {"vocabulary": {"size": 90}, "width": {"to": 24}}, {"pooling": {"kind": "sparse_vocabulary"}}),
        ("head", {"width": {"to": 24}}, {"head": [{"kind": "dense", "out_features": 6}]}),
    ],
)
def test_vectors_are_as_recorded(bert, name, cuts, options):
    student, params, _ = _make(bert, cuts, **options)
    np.testing.assert_allclose(Model(student, params).encode(list(SENTENCES)), RECORDED[name], atol=1e-4)


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
    whole, params, _ = _make(bert)
    student, smaller, _ = _make(bert, {"vocabulary": {"min_count": 2}})
    assert student.tokenizer.vocab_size < whole.tokenizer.vocab_size
    np.testing.assert_allclose(Model(student, smaller).encode(TEXTS), Model(whole, params).encode(TEXTS), atol=1e-6)


def test_a_table_of_words_with_fewer_tokens_and_dimensions(bert, tmp_path):
    static = {"encoder": {"kind": "static"}, "normalize": True}
    whole, words, _ = _make(bert, **static)
    student, params, kept = _make(bert, {"width": {"to": 20}, "vocabulary": {"size": 90}}, **static)
    assert params["encoder"]["words"].shape == (90, 20)
    assert (kept[0], kept[-1]) == ("its table of words", "width 20 of 32 by pca")
    table = np.asarray(words["encoder"]["words"])[[whole.tokenizer.ids[token] for token in student.tokenizer.ids]]
    narrow = np.asarray(params["encoder"]["words"])[[*student.tokenizer.ids.values()]]
    squares = np.linalg.svd(table, compute_uv=False) ** 2
    np.testing.assert_allclose(np.square(narrow).sum(), squares[:20].sum(), rtol=1e-5)
    # Of a table without that many directions nothing is lost.
    folder = tiny_static_folder(tmp_path, width=16, vocab=VOCABULARY[:12])
    student, params, _ = _make(folder, {"width": {"to": 12, "by": "pca"}})
    whole, words, _ = _make(folder)
    near, old = (Model(s, p).encode(["the cat", "a dog is", "the"]) for s, p in ((student, params), (whole, words)))
    np.testing.assert_allclose(near @ near.T, old @ old.T, atol=1e-4)


@pytest.mark.parametrize(
    ("cuts", "options", "words"),
    [
        ({"vocabulary": {"size": 500}}, {}, "size: is 500, but the model has 113 tokens"),
        ({"heads": 2}, {"encoder": {"kind": "static"}}, "static embedding has no layers"),
        ({"width": {"to": 8, "by": "importance"}}, {"encoder": {"kind": "static"}}, "Set it to pca"),
        ({"keep_layers": 4, "intermediate": 40}, {}, "3 layers"),
        (None, {"encoder": {"kind": "static"}, "keep_layers": 1}, "no layers"),
    ],
)
def test_cuts_that_do_not_fit_are_refused(bert, cuts, options, words):
    with pytest.raises(UserError, match=words):
        _make(bert, cuts, **options)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"keep_layers": 2}, "cuts nothing"),
        ({"output": "./model", "intermediate": 5}, "is init itself"),
        ({"width": 5}, "width"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(content, words):
    with pytest.raises(ValueError, match=words):
        PruneConfig.model_validate({"init": "model", "output": "small", **content})


@pytest.mark.parametrize(
    "old", [{"width": {"to": 5}}, {"heads": 2}, {"intermediate": 9}, {"vocabulary": {"size": 5}}], ids=str
)
def test_keys_of_before_name_the_section_and_the_command(old):
    with pytest.raises(ValueError, match=r"set in the section 'prune'.* `jdistill prune` writes .* as student.init"):
        StudentConfig.model_validate({"init": "x", **old})
    assert StudentConfig.model_validate({"init": "x", **dict.fromkeys(old)}) == StudentConfig(init="x")


def test_a_head_that_expects_the_whole_width_is_refused(bert, tmp_path):
    student, params, _ = _make(bert, head=[{"kind": "dense", "out_features": 8}])
    export_model(student, params, tmp_path / "dense")
    with pytest.raises(UserError, match="has a dense module in its head"):
        _make(tmp_path / "dense", {"width": {"to": 24}})
    _, params, _ = _make(tmp_path / "dense", {"width": {"to": 24}}, head=[{"kind": "dense", "out_features": 6}])
    assert params["head"]["0"]["kernel"].shape == (24, 6)
    _, params, _ = _make(tmp_path / "dense", {"intermediate": 40})
    assert params["head"]["0"]["kernel"].shape == (32, 8)


def test_the_head_of_a_language_model_loses_the_same_tokens_and_keeps_its_width(tmp_path):
    folder = tiny_bert_folder(tmp_path / "lm", masked_lm=True, sentence_transformers=False)
    splade = {"pooling": {"kind": "splade"}}
    whole, words, _ = _make(folder, **splade)
    student, params, _ = _make(folder, {"vocabulary": {"size": 90}}, **splade)
    kept = [whole.tokenizer.ids[token] for token in sorted(student.tokenizer.ids, key=student.tokenizer.ids.get)]
    fewer, full = params["pooling"]["0"], words["pooling"]["0"]
    np.testing.assert_array_equal(fewer["bias"], np.asarray(full["bias"])[kept])
    jax.tree.map(np.testing.assert_array_equal, fewer["dense"], full["dense"])
    texts = [text for text in TEXTS if len(whole.tokenizer.encode([text], None)[0]) < 9][:4]
    same = [t for t in texts if {*whole.tokenizer.encode([t], None)[0]} <= {*kept}]
    assert same
    vectors = Model(student, params).encode(same)
    np.testing.assert_allclose(vectors, Model(whole, words).encode(same)[:, kept], atol=1e-5)
    with pytest.raises(UserError, match="'splade' takes its parameters from"):
        _make(folder, {"width": {"to": 24}}, **splade)


def test_tokens_that_a_pooling_excludes_are_renumbered(bert, tmp_path):
    """Special tokens keep their place here, so another token is excluded too."""
    excluded = sorted(VOCABULARY.index(token) for token in ("[PAD]", "[SEP]", "the", "##p"))
    student, params, _ = _make(bert, pooling={"kind": "sparse_vocabulary", "excluded": excluded})
    export_model(student, params, tmp_path / "sparse")
    pruned, _, _ = _make(tmp_path / "sparse", {"vocabulary": {"size": 90}})
    ids = pruned.tokenizer.ids
    assert pruned.config.pooling[0].excluded == sorted(
        ids[token] for token in ("[PAD]", "[SEP]", "the", "##p") if token in ids
    )


def test_a_random_student_of_a_size_by_name_says_how_large_it_is(bert):
    config = StudentConfig.model_validate({"tokenizer": str(bert), "encoder": {"kind": "bert", "size": "tiny"}})
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
    total = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    line = describe_student(config, None, student, params)
    assert line == f"random bert: {total:.2f}M parameters, {113 * 128 / 1e6:.2f}M of them words"
    assert Model(student, params).encode(["the cat"]).shape == (1, 128)
