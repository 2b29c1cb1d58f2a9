"""Two and four processes on loopback, two devices each: trained, evaluated, disturbed and resumed as one run."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jdistill import cli
from jdistill.checkpoint import complete_steps, load_student_params
from jdistill.parallel.processes import HEARTBEAT_SECONDS
from jdistill.parallel.sharding import SMALLEST
from tests.several_processes import Together, done
from tests.tiny import VOCABULARY, tiny_static_folder
from tests.train.test_loop import state_of
from tests.verbs.conftest import make_job

STEPS = 40
SAVED = 8
"""Steps between checkpoints."""
WIDTH = 640
"""Of the table, so that it is large enough to be split over devices."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of a static student in `recipe.yaml`, its store made."""
    job = make_job(tmp_path_factory.mktemp("processes"))
    job.content["student"] = {"init": str(tiny_static_folder(job.folder / "static", width=WIDTH)), "dropout": 0.1}
    job.content["losses"] = {"align": {"kind": "embed_cosine"}, "contrast": {"kind": "info_nce", "weight": 0.1}}
    job.content["train"] |= {
        "steps": STEPS,
        "log_every": 1,
        "evaluate_every": 20,
        "save_every": SAVED,
        "keep_best": {"metric": "sts/spearman_cosine", "mode": "min"},  # in the middle, so that it must be restored
        "optimizer": {"peak_lr": 0.01},
    }
    assert cli.main(["embed", job.write()]) == 0
    return job.folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    """The run of one process with eight devices."""
    return train_alone(folder, "alone")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Path:
    """The run of two processes with two devices each."""
    done(training(folder, "pair"), count=2)
    return folder / "pair"


def training(folder: Path, name: str, *overrides: str) -> list[object]:
    return ["train", folder / "recipe.yaml", f"run={folder / name}", *overrides]


def train_alone(folder: Path, name: str) -> Path:
    assert cli.main([str(word) for word in training(folder, name)]) == 0
    return folder / name


def values(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what differs from time to time."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line if key not in ("time", "train/rows_per_second")} for line in lines]


def assert_equal(run: Path, other: Path, *, tolerance: float) -> None:
    """The same last state and best student, losses, evaluations and result; 0 asks for every bit."""
    first, second = ([state_of(each, STEPS), load_student_params(each)] for each in (run, other))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance)
    ours, theirs = values(run), values(other)
    assert len(ours) == len(theirs) == STEPS + 3
    for a, b in zip(ours, theirs, strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    a, b = (json.loads((each / "result.json").read_text()) for each in (run, other))
    assert a.pop("evaluation") == pytest.approx(b.pop("evaluation"), rel=tolerance, abs=tolerance)
    assert a == b
    assert 0 < a["best_step"] < STEPS


@pytest.mark.slow
def test_two_processes_equal_one(alone: Path, pair: Path) -> None:
    assert_equal(pair, alone, tolerance=1e-5)


@pytest.mark.slow
def test_four_processes_with_a_split_table_resume_the_run_of_one(folder: Path, alone: Path) -> None:
    """Begun by one process, killed, resumed by four, of which none has the whole table."""
    assert WIDTH * len(VOCABULARY) >= SMALLEST
    name = "by four"
    with Together(training(folder, name), count=1, seconds=0.05) as one:
        one.wait_for(lambda: SAVED in complete_steps(folder / name))
    assert max(complete_steps(folder / name)) < STEPS
    done(training(folder, name, "train.fsdp=4"), count=4)
    assert_equal(folder / name, alone, tolerance=1e-5)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = done(["evaluate", pair, "--json"], count=2)
    assert cli.main(["evaluate", str(pair), "--json"]) == 0
    (theirs,), (ours,) = (json.loads(text).values() for text in (first, capsys.readouterr().out))
    assert theirs == pytest.approx(ours, abs=1e-5)
    assert second == ""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_resumes(folder: Path, alone: Path, victim: int) -> None:
    name, survivor = f"killed {victim}", 1 - victim
    with Together(training(folder, name), count=2, seconds=0.05) as two:
        two.wait_for(lambda: SAVED in complete_steps(folder / name))
        began = time.monotonic()
        two.processes[victim].kill()
        code = two.codes()[survivor]
        seconds = time.monotonic() - began
        message = "".join(two.errors[survivor])
    assert code in (75, -signal.SIGABRT), message
    assert seconds < HEARTBEAT_SECONDS + 15, message
    if code == 75:
        assert f"process {survivor} of 2: stopped, because another process died" in message
        assert "rerun the same command on every host to resume" in message
    else:  # the runtime noticed it first
        assert "most likely indicates that another task died" in message
    assert max(complete_steps(folder / name)) < STEPS
    if victim:  # the other way round is the same from here on
        assert_equal(train_alone(folder, name), alone, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("warned", [0, 1])
def test_sigterm_to_one_of_two_saves_what_both_have_done(folder: Path, pair: Path, warned: int) -> None:
    name = f"preempted {warned}"
    with Together(training(folder, name), count=2, seconds=0.05) as two:
        two.wait_for(lambda: f"step {SAVED + 2}/" in two.message())
        two.processes[warned].send_signal(signal.SIGTERM)
        assert two.codes() == [75, 75], two.message()
        message = "".join(two.errors[0])
    step = max(complete_steps(folder / name))
    assert SAVED + 2 <= step < STEPS
    assert f"stopped by SIGTERM after step {step} of {STEPS}" in message
    assert values(folder / name)[-1]["step"] == step
    if warned:  # the other way round is the same from here on
        done(training(folder, name), count=2)
        assert_equal(folder / name, pair, tolerance=0)


@pytest.mark.slow
def test_sigterm_to_one_process(folder: Path, alone: Path) -> None:
    with Together(training(folder, "preempted"), count=1, devices=8, seconds=0.05) as one:
        one.wait_for(lambda: f"step {SAVED + 2}/" in one.message())
        one.processes[0].send_signal(signal.SIGTERM)
        assert one.codes() == [75], one.message()
        message = one.message()
    step = max(complete_steps(folder / "preempted"))
    assert SAVED + 2 <= step < STEPS
    assert step % SAVED, "of a step that would not have been saved"
    assert f"stopped by SIGTERM after step {step} of {STEPS}" in message
    assert_equal(train_alone(folder, "preempted"), alone, tolerance=0)
