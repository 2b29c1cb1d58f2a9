"""The full pipeline of students with heads: trained, exported, verified, loaded again."""

import numpy as np
import pytest

import jdistill
from jdistill import cli
from tests.tiny import tiny_bert_folder
from tests.verbs.conftest import sentences

STUDENTS = {
    "splade": (
        {"pooling": {"kind": "splade"}},
        {"contrast": {"kind": "info_nce", "temperature": 1.0}, "flops": {"kind": "flops", "weight": 1e-3}},
        'SparseEncoder("tiny")',
    ),
    "activation": (
        {"pooling": {"kind": "activation"}, "head": [{"kind": "dense", "out_features": 12}], "normalize": True},
        {"align": {"kind": "embed_cosine"}},
        'SentenceTransformer("tiny", trust_remote_code=True)',
    ),
}
"""Name -> student, losses, and how its card says that it is loaded."""


@pytest.mark.parity
@pytest.mark.parametrize("name", STUDENTS)
def test_from_a_masked_language_model_to_a_verified_folder(embedded, tmp_path, capsys, name):
    pytest.importorskip("sentence_transformers")
    student, losses, usage = STUDENTS[name]
    init = tiny_bert_folder(tmp_path / "init", layers=1, hidden=16, masked_lm=True)
    train = {**embedded.content["train"], "steps": 2}
    recipe = embedded.write(
        f"{name}.yaml",
        student={"init": str(init), **student},
        losses=losses,
        train=train,
        run=str(tmp_path / "run"),
        evaluate={},
        fidelity=None,
    )
    assert cli.main(["train", recipe]) == 0
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "equals the student" in capsys.readouterr().out
    trained, exported = jdistill.load(tmp_path / "run"), jdistill.load(tmp_path / "out")
    assert trained.student.config.pooling == exported.student.config.pooling
    np.testing.assert_allclose(exported.encode(sentences(5)), trained.encode(sentences(5)), atol=1e-6)
    assert usage in (tmp_path / "out" / "README.md").read_text()


def test_losses_of_vectors_are_no_losses_of_a_sparse_student(embedded, tmp_path, capsys):
    init = tiny_bert_folder(tmp_path / "init", layers=1, hidden=16)
    student = {"init": str(init), "pooling": {"kind": "sparse_vocabulary"}}
    assert cli.main(["train", embedded.write("bad.yaml", student=student, run=str(tmp_path / "run"))]) == 2
    assert "compare scores instead of vectors" in capsys.readouterr().err
