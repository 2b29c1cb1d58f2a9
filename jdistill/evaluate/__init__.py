"""Numbers that a user sees are measured here: similarity, triplets, retrieval, fidelity to the teacher, speed.

An evaluator is a configuration that is called on an encode function. To add one: a file with its class, and its name in
`Evaluator` below.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from jdistill.evaluate.base import Encode, EvaluatorConfig, SideName
from jdistill.evaluate.fidelity import Fidelity, FidelityConfig, fidelity
from jdistill.evaluate.retrieval import Retrieval
from jdistill.evaluate.sts import STS
from jdistill.evaluate.table import format_json, format_table
from jdistill.evaluate.throughput import Throughput, rows_per_second
from jdistill.evaluate.triplet import Triplet

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

Evaluator = Annotated[STS | Triplet | Retrieval | Throughput, Field(discriminator="kind")]


def evaluate(evaluators: Mapping[str, EvaluatorConfig | Fidelity], encode: Encode) -> dict[str, float]:
    """Every metric of every evaluator, named `evaluator/metric`, in the order given."""
    return {
        f"{name}/{metric}": value
        for name, evaluator in evaluators.items()
        for metric, value in evaluator(encode).items()
    }


def metric_names(evaluators: Mapping[str, EvaluatorConfig | Fidelity], width: int) -> list[str]:
    """Every metric that `evaluate` gives for a model whose vectors have this width, in the same order."""
    return [f"{name}/{metric}" for name, evaluator in evaluators.items() for metric in evaluator.metrics(width)]


def primary_metrics(evaluators: Mapping[str, EvaluatorConfig | Fidelity]) -> list[str]:
    """The one metric of each evaluator that stands for it, named as `evaluate` names them."""
    return [f"{name}/{evaluator.primary}" for name, evaluator in evaluators.items()]
