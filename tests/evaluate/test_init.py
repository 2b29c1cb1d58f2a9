import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from jdistill.evaluate import STS, Evaluator, EvaluatorConfig, Triplet, evaluate, primary_metrics


class _Constant(EvaluatorConfig):
    primary = "one"
    kind: str = "constant"

    def __call__(self, encode):
        return {"one": 1.0, "two": 2.0}


def test_kind_chooses_the_evaluator():
    assert isinstance(TypeAdapter(Evaluator).validate_python({"kind": "sts", "path": "x.csv"}), STS)
    with pytest.raises(ValidationError):
        TypeAdapter(Evaluator).validate_python({"kind": "sts_", "path": "x.csv"})


def test_metrics_are_named_after_their_evaluator():
    evaluators = {"a": _Constant(), "b": _Constant()}
    assert evaluate(evaluators, lambda texts, side: None) == {"a/one": 1.0, "a/two": 2.0, "b/one": 1.0, "b/two": 2.0}
    assert primary_metrics(evaluators) == ["a/one", "b/one"]
    assert primary_metrics({"nli": Triplet(path="x.csv")}) == ["nli/cosine_accuracy"]


def test_every_option_is_described_and_kinds_are_told_apart():
    schema = TypeAdapter(Evaluator).json_schema()
    for name, section in schema["$defs"].items():
        for field, content in section["properties"].items():
            assert field == "kind" or content.get("description"), f"{name}.{field} has no description"
    assert sorted(schema["discriminator"]["mapping"]) == ["retrieval", "sts", "throughput", "triplet"]


def test_import_needs_neither_torch_nor_jax():
    code = "import sys, jdistill.evaluate; assert not {'torch', 'transformers', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
