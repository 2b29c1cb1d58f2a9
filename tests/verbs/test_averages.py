"""A moving average or an average of checkpoints is what `jdistill export` writes, and the card says so."""

from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jdistill import cli
from jdistill.checkpoint import load_student_params
from tests.tiny import tiny_static_folder
from tests.train.test_loop import state_of

EARLY = {"metric": "sts/spearman_cosine", "min_change": 9.0}


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"ema": {"decay": 0.5}}, "| moving average of parameters | decay 0.5 |"),
        ({"average_checkpoints": {"last": 2}}, "| average of checkpoints | steps 2, 4 |"),
        ({"early_stopping": {**EARLY, "patience": 9}}, "spearman_cosine, patience 9, did not end the run |"),
        ({"early_stopping": {**EARLY, "patience": 1}}, "spearman_cosine, patience 1, ended the run |"),
    ],
    ids=["ema", "average", "early", "stopped"],
)
def test_the_folder_has_the_weights_that_were_evaluated(embedded: Any, tmp_path: Any, options: Any, row: str) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train = {**embedded.content["train"], "optimizer": {"peak_lr": 0.05}, **options}
    student = {"init": str(tiny_static_folder(tmp_path / "static", width=32))}
    recipe = embedded.write("averages.yaml", run=str(run), student=student, train=train, fidelity=None)
    assert cli.main(["train", recipe]) == 0
    assert cli.main(["export", str(run), str(out)]) == 0
    (exported,) = load_file(next(out.rglob("model.safetensors"))).values()
    np.testing.assert_array_equal(exported, np.asarray(load_student_params(run)["encoder"]["words"]))
    last = state_of(run, max(int(step.name) for step in (run / "checkpoints").iterdir()))
    trained = last["rest"].get("trained", last["student"])["encoder"]["words"]
    averages = "early_stopping" not in options
    assert np.array_equal(exported, trained) != averages
    assert row in (out / "README.md").read_text()
    assert len(jax.tree.leaves(last["student"])) == len(jax.tree.leaves(load_student_params(run)))
