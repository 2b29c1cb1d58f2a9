"""Throughput: texts per second of `encode`, tokenization included."""

import statistics
import time
from functools import cached_property
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from typing_extensions import override

from jdistill.config import PathText
from jdistill.data import read_columns, text
from jdistill.evaluate.base import Encode, EvaluatorConfig, SideName


class Throughput(EvaluatorConfig):
    """Encoding speed on the texts of a file. Metric: `rows_per_second`, the median of several passes after warm-up."""

    primary: ClassVar[str] = "rows_per_second"
    task: ClassVar[str | None] = None  # it belongs to a machine

    kind: Literal["throughput"] = "throughput"
    path: PathText = Field(description="Parquet, CSV or JSON-lines file of texts.")
    text: str = Field(default="text", description="Column of the texts.")
    limit: PositiveInt = Field(default=1000, description="Maximum number of distinct texts to use.")
    passes: PositiveInt = Field(default=3, description="Timed passes over the texts; the median is reported.")
    side: SideName = Field(default="document", description="Side whose prompt the texts get.")

    def __call__(self, encode: Encode) -> dict[str, float]:
        """`rows_per_second`."""
        return {"rows_per_second": rows_per_second(encode, self._texts, passes=self.passes, side=self.side)}

    @override
    def prepare(self) -> None:
        _ = self._texts

    @override
    def metrics(self, width: int) -> list[str]:
        return ["rows_per_second"]

    @cached_property
    def _texts(self) -> list[str]:
        column = read_columns(self.path, {self.text: text})[self.text]
        return list(dict.fromkeys(column))[: self.limit]  # equal texts would be encoded only once


def rows_per_second(encode: Encode, texts: list[str], *, passes: int = 3, side: SideName = "document") -> float:
    """Median speed over `passes`, after one untimed pass for compilation.

    `encode` returns NumPy arrays, so the device has finished when it returns.
    """
    encode(texts, side=side)
    seconds = []
    for _ in range(passes):
        start = time.perf_counter()
        encode(texts, side=side)
        seconds.append(time.perf_counter() - start)
    return len(texts) / statistics.median(seconds)
