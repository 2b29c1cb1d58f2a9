import subprocess
import sys
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter, ValidationError

from jdistill.evaluate import (
    STS,
    Evaluator,
    EvaluatorConfig,
    Fidelity,
    FidelityConfig,
    Triplet,
    evaluate,
    metric_names,
    primary_metrics,
)


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


def test_names_of_metrics_are_known_before_the_first_call(tmp_path):
    texts = [f"{i} cats" for i in range(12)]
    columns = {
        **dict.fromkeys(("text", "sentence1", "anchor", "positive"), texts),
        **dict.fromkeys(("sentence2", "negative"), texts[::-1]),
        **{key: [str(i) for i in range(12)] for key in ("id", "qid", "docid")},
        "score": list(range(12)),
    }
    pq.write_table(pa.table(columns), tmp_path / "all.parquet")
    file = {"path": str(tmp_path / "all.parquet")}
    evaluators = {
        "sts": {"kind": "sts", **file, "similarities": ["dot"]},
        "triplet": {"kind": "triplet", **file},
        "speed": {"kind": "throughput", **file, "passes": 1},
        "retrieval": {"kind": "retrieval", **dict.fromkeys(("corpus", "queries", "qrels"), file), "ndcg": [3]},
    }
    made = TypeAdapter(dict[str, Evaluator]).validate_python(evaluators)
    rng = np.random.default_rng(0)
    for teacher in (4, 6):
        made |= {
            f"fidelity_{teacher}": Fidelity(
                FidelityConfig(neighbours=3), {"document": texts}, rng.normal(size=(12, teacher))
            )
        }
    for evaluator in made.values():
        evaluator.prepare()
    (tmp_path / "all.parquet").unlink()  # whatever is read is read before
    metrics = evaluate(made, lambda texts, side: rng.normal(size=(len(texts), 4)))
    assert metric_names(made, 4) == list(metrics)


def test_every_option_is_described_and_kinds_are_distinguished():
    schema = TypeAdapter(Evaluator).json_schema()
    for name, section in schema["$defs"].items():
        for field, content in section["properties"].items():
            assert field == "kind" or content.get("description"), f"{name}.{field} has no description"
    assert sorted(schema["anyOf"][0]["discriminator"]["mapping"]) == ["retrieval", "sts", "throughput", "triplet"]


def test_import_needs_neither_torch_nor_jax():
    code = "import sys, jdistill.evaluate; assert not {'torch', 'transformers', 'jax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_evaluator_says_what_it_measures():
    """Left to the base, a card would call it nothing but an evaluation."""
    own = get_args(get_args(Evaluator)[0])[:-1]
    assert [cls.__name__ for cls in (*own, Fidelity) if "task" not in vars(cls) or "primary" not in vars(cls)] == []
