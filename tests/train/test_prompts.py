"""What training sees of a text is what `Model.encode` gives with the prompt of its side, pooled or not."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jdistill.config import parse
from jdistill.model import Model
from jdistill.recipe import Recipe
from jdistill.train.step import encode_columns
from jdistill.verbs.train import make_loader, make_run_student, open_store
from tests.verbs.conftest import Job

PROMPTS = {"query": "the cat ", "document": "see: "}


@pytest.mark.parametrize("include_prompt", [False, True])
@pytest.mark.parametrize("case", ["padded", "folded", "packed", "cached"])
def test_training_sees_what_encode_gives(job: Job, tmp_path: Path, case: str, include_prompt: bool) -> None:
    layout: dict[str, Any] = {"folded": {"folding": True}, "packed": {"packing": 64}}.get(case, {"shapes": 1})
    student: dict[str, Any] = {"prompts": PROMPTS, "include_prompt": include_prompt, "pooling": ["mean", "cls"]}
    student |= {"backbone": "cached", "head": [{"kind": "dense", "out_features": 8}]} if case == "cached" else {}
    content = {"run": str(tmp_path), "loader": layout, "student": job.content["student"] | student}
    recipe = parse(Recipe, job.content | content, where="x.yaml")
    store = open_store(recipe)
    made, params = make_run_student(recipe, store)
    batch = make_loader(recipe, store, made, params).batch(0)
    keys = jax.random.split(jax.random.key(0), len(batch.document_ids))
    seen = jax.jit(partial(encode_columns, made, (made.layers,)))(params, (batch.queries, batch.documents), keys)
    columns, model = seen[made.layers], Model(made, params)
    for side, ids, vectors in (
        ("query", batch.query_ids, columns.queries),
        ("document", batch.document_ids[:, 0], columns.documents[:, 0]),
    ):
        texts = list(store.texts.take(np.asarray(ids)))
        np.testing.assert_allclose(vectors, model.encode(texts, prompt_name=side), atol=1e-6)
        unlike = model.encode(texts, prompt_name="document" if side == "query" else "query")
        assert np.abs(np.asarray(vectors) - unlike).max() > 1e-3
