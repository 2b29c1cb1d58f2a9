"""Sinks: what is written, taken back on resume, and missing."""

import json
import sys
from pathlib import Path

import pytest

from jdistill.config import UserError
from jdistill.train.sinks import JsonLines, check_sinks, open_sinks


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_lines_of_later_steps_are_taken_back(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path, 0)
    for step in (1, 2, 2, 3):
        sink.scalars(step, {"train/loss": 1.0 / step})
    sink.close()
    sink = JsonLines(tmp_path, 2)
    sink.scalars(3, {"train/loss": 7.0})
    sink.close()
    assert steps(sink.path) == [1, 2, 2, 3]
    assert json.loads(sink.path.read_text().splitlines()[-1])["train/loss"] == 7.0


def test_half_a_line_of_a_killed_process_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 2, "eva')
    sink = JsonLines(tmp_path, 2)
    sink.close()
    assert steps(sink.path) == [1, 2]


def test_a_run_from_the_start_begins_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    sink = JsonLines(tmp_path, 0)
    sink.close()
    assert sink.path.read_text() == ""


def test_not_a_number_stays_valid_json(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path, 0)
    sink.scalars(1, {"evaluate/spearman": float("nan")})
    sink.close()
    assert json.loads(sink.path.read_text(), parse_constant=pytest.fail)["evaluate/spearman"] is None


def test_tensorboard_writes_events(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    for sink in open_sinks(["tensorboard"], tmp_path, {}, 0):
        sink.scalars(1, {"train/loss": 1.0})
        sink.close()
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert steps(tmp_path / "metrics.jsonl") == [1]


@pytest.mark.parametrize(("sink", "module"), [("wandb", "wandb"), ("tensorboard", "tensorboardX")])
def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, sink: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'jdistill\[{sink}\]'"):
        check_sinks([sink])


def test_the_evaluation_of_the_step_resumed_from_is_taken_back(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path, 0)
    for step in (1, 2):
        sink.scalars(step, {"train/loss": 1.0})
        sink.scalars(step, {"evaluate/sts/spearman_cosine": 0.5})
    sink.close()
    sink = JsonLines(tmp_path, 2)
    sink.close()
    assert steps(sink.path) == [1, 1, 2]
