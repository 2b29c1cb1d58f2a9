"""What `evaluate` compares, besides what its evaluators measure."""

import pyarrow as pa
import pyarrow.parquet as pq

from jdistill.store import Store
from jdistill.verbs import embed, load_recipe
from jdistill.verbs.evaluate import make_evaluators, recorded


def test_each_distinct_heldout_text_is_compared_once(job):
    queries = ["a cat", "a cat", "a dog", "the river", "a bird"]
    documents = ["the old house", "the red train", "the old house", "the old house", "the river"]
    pq.write_table(pa.table({"q": queries, "d": documents}), job.folder / "heldout.parquet")
    recipe = load_recipe(job.write())
    embed(recipe)
    fidelity = make_evaluators(recipe, Store.open(recipe.store))["fidelity_big"]
    assert {side: sorted(texts) for side, texts in fidelity.texts.items()} == {
        "document": ["the old house", "the red train", "the river"],
        "query": ["a bird", "a cat", "a dog"],
    }
    assert len(fidelity.teacher) == 6


def test_damaged_lines_of_metrics_cost_themselves_only(tmp_path):
    lines = ['{"step": 0, "evaluate/sts/spearman": 0.5}', '{"step": 1, "lo', "[1]", "\x00\x00"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert recorded(tmp_path) == {"before": {"sts/spearman": 0.5}}
