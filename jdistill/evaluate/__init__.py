"""Evaluation: similarity, triplets, retrieval, fidelity to the teacher, throughput.

An evaluator is a config that is called with an encode function. To add one, write a module with its class, and add the
class to `Evaluator` below.
"""

from collections.abc import Mapping
from typing import Annotated

from jdistill.evaluate.base import Encode, EvaluatorConfig, SideName
from jdistill.evaluate.fidelity import Fidelity, FidelityConfig, fidelity
from jdistill.evaluate.retrieval import Retrieval
from jdistill.evaluate.sts import STS
from jdistill.evaluate.table import format_json, format_table
from jdistill.evaluate.throughput import Throughput, rows_per_second
from jdistill.evaluate.triplet import Triplet
from jdistill.outside import Outside

__all__ = [
    "STS",
    "Encode",
    "Evaluator",
    "EvaluatorConfig",
    "Fidelity",
    "FidelityConfig",
    "Retrieval",
    "SideName",
    "Throughput",
    "Triplet",
    "evaluate",
    "fidelity",
    "format_json",
    "format_table",
    "metric_names",
    "primary_metrics",
    "rows_per_second",
]

OUTSIDE = Outside("jdistill.evaluators", EvaluatorConfig, defines=("primary", "__call__", "metrics"))
"""Evaluators of other packages."""

Evaluator = Annotated[STS | Triplet | Retrieval | Throughput | EvaluatorConfig, OUTSIDE]
"""Any evaluator, told apart by its `kind`."""


def evaluate(evaluators: Mapping[str, EvaluatorConfig | Fidelity], encode: Encode) -> dict[str, float]:
    """All metrics of all evaluators, named `evaluator/metric`, in the given order."""
    return {
        f"{name}/{metric}": value
        for name, evaluator in evaluators.items()
        for metric, value in evaluator(encode).items()
    }


def metric_names(evaluators: Mapping[str, EvaluatorConfig | Fidelity], width: int) -> list[str]:
    """Names of the metrics that `evaluate` returns for a model of this width, in the same order."""
    return [f"{name}/{metric}" for name, evaluator in evaluators.items() for metric in evaluator.metrics(width)]


def primary_metrics(evaluators: Mapping[str, EvaluatorConfig | Fidelity]) -> list[str]:
    """The main metric of each evaluator, named as by `evaluate`."""
    return [f"{name}/{evaluator.primary}" for name, evaluator in evaluators.items()]
