import itertools

import numpy as np
import pytest

from jdistill.evaluate import Throughput, rows_per_second
from jdistill.evaluate import throughput as module
from tests.evaluate.vectors import write_parquet


def test_is_the_median_of_the_passes_after_the_warm_up(monkeypatch):
    clock = itertools.accumulate([0, 1, 0, 9, 0, 2])  # passes of 1, 9 and 2 seconds
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    calls = []
    speed = rows_per_second(lambda texts, side: calls.append(side), ["a"] * 10, passes=3, side="query")
    assert speed == 5.0
    assert calls == ["query"] * 4


def test_reads_the_first_texts_of_the_file(tmp_path):
    file = write_parquet(tmp_path / "t.parquet", {"text": ["a", "b", "c"]})
    seen = []

    def encode(texts, *, side):
        seen.append(texts)
        return np.zeros((len(texts), 2), np.float32)

    metrics = Throughput(path=file, limit=2, passes=1)(encode)
    assert seen == [["a", "b"]] * 2
    assert metrics["rows_per_second"] > 0
    assert pytest.approx(metrics) == {Throughput.primary: metrics["rows_per_second"]}
