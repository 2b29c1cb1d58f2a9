"""verify on folders written by transformers: it accepts what is equal and sees what is not."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jdistill.export.verify import PROBES, _in_batches, verify
from tests.tiny import tiny_bert_folder, tiny_static_folder

pytestmark = pytest.mark.parity
pytest.importorskip("sentence_transformers")


def _encode(folder, prompt_name=None):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(list(PROBES), prompt_name=prompt_name)


MODES = ["mean", "cls", "max", "mean_sqrt_len", "weightedmean", "lasttoken", ["lasttoken", "cls", "mean"]]


@pytest.mark.parametrize("pooling", MODES, ids=str)
def test_both_loaders_agree_on_every_pooling(tmp_path, pooling):
    folder = tiny_bert_folder(tmp_path / "bert", max_length=32, pooling=pooling, layers=2)
    result = verify(folder, PROBES, {"": _encode(folder)})
    assert [check.loader for check in result.checks] == ["sentence-transformers", "transformers"]
    assert result.max_difference < 2e-6
    assert result.passed
    assert "equals the student" in str(result)


def test_prompts_are_checked_by_name(tmp_path):
    prompts = {"query": "the cat: ", "document": "a dog sees "}
    folder = tiny_bert_folder(tmp_path / "bert", layers=1, prompts=prompts)
    vectors = {"": _encode(folder), **{name: _encode(folder, name) for name in prompts}}
    result = verify(folder, PROBES, vectors)
    assert len(result.checks) == 6
    assert result.passed
    swapped = verify(folder, PROBES, {"query": vectors["document"]})
    assert not swapped.passed
    assert "DIFFERS" in str(swapped)


def test_a_static_model_has_only_the_sentence_transformers_check(tmp_path):
    folder = tiny_static_folder(tmp_path / "static", normalize=True)
    result = verify(folder, PROBES, {"": _encode(folder)})
    assert [check.loader for check in result.checks] == ["sentence-transformers"]
    assert result.passed
    assert result.min_cosine == pytest.approx(1)  # the empty text's zero vector counts as equal


@pytest.mark.parametrize("change", [1e-4, np.nan])
def test_one_changed_number_fails(tmp_path, change):
    folder = tiny_bert_folder(tmp_path / "bert", layers=1)
    vectors = _encode(folder)
    vectors[3, 5] += change
    result = verify(folder, PROBES, {"": vectors})
    assert not result.passed
    assert result.max_difference >= 0.9e-4
    assert verify(folder, PROBES, {"": vectors}, tolerance=1e-3).passed == (change == 1e-4)


def test_a_changed_length_limit_fails(tmp_path):
    folder = tiny_bert_folder(tmp_path / "bert", layers=1, max_length=32)
    vectors = _encode(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
    assert not verify(folder, PROBES, {"": vectors}).passed


def test_vectors_of_another_width_are_refused(tmp_path):
    folder = tiny_bert_folder(tmp_path / "bert", layers=1)
    with pytest.raises(ValueError, match=r"\(14, 3\).*\(14, 32\)"):
        verify(folder, PROBES, {"": np.zeros((len(PROBES), 3), np.float32)})


def test_import_needs_no_torch():
    code = "import sys, jdistill.export.verify; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_long_text_does_not_pad_many_short_ones():
    """What goes through the other libraries at once, longest first; vectors come back in the order of the texts."""
    seen = []

    def encode(texts, prompt):
        seen.append((len(texts), max(map(len, texts))))
        return np.array([[len(text), len(prompt)] for text in texts], np.float32)

    texts = ["ab", "x" * 30_000, "", *["abc"] * 40]
    vectors = _in_batches(encode, texts, "q")
    np.testing.assert_array_equal(vectors, [[len(text), 1] for text in texts])
    assert seen == [(1, 30_000), (32, 3), (10, 3)]
