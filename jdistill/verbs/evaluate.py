"""`jdistill evaluate`: compare runs and models."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jdistill import evaluate as evaluation
from jdistill.backend import check_compiler
from jdistill.checkpoint import load_result
from jdistill.config import UserError
from jdistill.evaluate import (
    EvaluatorConfig,
    Fidelity,
    FidelityConfig,
    SideName,
    format_json,
    format_table,
    primary_metrics,
)
from jdistill.folders.prompts import prompt_name
from jdistill.model import Model, load
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student import Student
from jdistill.student.pooling import PoolingModule
from jdistill.verbs.show import load_recipe, run_recipe
from jdistill.verbs.teachers import evaluate_teacher, find_teacher

Evaluators = dict[str, EvaluatorConfig | Fidelity]


def evaluate(models: Sequence[str], *, config: str | None = None, as_json: bool = False) -> str:
    """The metrics of every model, as a table or as JSON.

    Args:
      models: run folders, model folders, hub ids, or names of the recipe's teachers. A teacher of the recipe, given by
        its name or its `model`, uses the recipe's settings; every other model uses its own.
      config: YAML file with the evaluators; default: those of the first run folder among `models`.
      as_json: JSON instead of a table.

    Raises:
      UserError: if no evaluator is configured, a model cannot be read, neither a teacher's model nor its stored vectors
        are available, or the compiler computes wrong sums.
    """
    check_compiler()
    recipe = _recipe(models, config)
    teachers = {model: find_teacher(recipe, model) for model in models}
    store = Store.open(recipe.store) if Path(recipe.store, "manifest.json").is_file() else None
    evaluators = make_evaluators(recipe, store)
    if not evaluators:
        raise UserError("evaluate: the recipe has no 'evaluate' section. Add one, or pass another recipe as --config.")
    modules = [type(each) for each in recipe.student.poolings if isinstance(each, PoolingModule)]
    results = {
        model: evaluate_model(evaluators, load(model, poolings=modules))
        if teacher is None
        else evaluate_teacher(evaluators, recipe, store, teacher)
        for model, teacher in teachers.items()
    }
    if as_json:
        return format_json(results).rstrip()
    return f"{format_table(results)}\nmain metrics: {', '.join(primary_metrics(evaluators))}"


def make_evaluators(recipe: Recipe, store: Store | None) -> Evaluators:
    """The recipe's evaluators, plus the fidelity to each teacher if the store has held-out rows."""
    evaluators: Evaluators = dict(recipe.evaluate)
    if recipe.fidelity is None or store is None or "heldout" not in store.roles:
        return evaluators
    for name in recipe.teachers:
        teacher = store.teacher(name)
        texts, parts = {}, []
        for side, ids in _heldout_ids(store, recipe.fidelity).items():
            texts[side] = store.texts.take(ids)
            parts.append(np.asarray(teacher.take(ids, side), np.float32))
        evaluators[f"fidelity_{name}"] = Fidelity(recipe.fidelity, texts, np.concatenate(parts))
    return evaluators


def _heldout_ids(store: Store, config: FidelityConfig) -> dict[SideName, Int[np.ndarray, " n"]]:
    """Ids of the held-out documents and queries to compare, each text once; a text that is both counts as document."""
    rows = store.rows("heldout")
    documents = np.unique(rows.documents[:, 0])
    queries = np.empty(0, documents.dtype) if rows.queries is None else np.setdiff1d(rows.queries, documents)
    # Ascending numbers of documents, then of queries, so that one cut separates them.
    chosen = config.rows(len(documents) + len(queries))
    last = int(np.searchsorted(chosen, len(documents)))
    found: dict[SideName, Int[np.ndarray, " n"]] = {"document": documents[chosen[:last]]}
    if last < len(chosen):
        found["query"] = queries[chosen[last:] - len(documents)]
    return found


def evaluate_params(evaluators: Mapping[str, Any], student: Student, params: Any) -> dict[str, float]:
    """All metrics of a student with these parameters."""
    return evaluate_model(evaluators, Model(student, params))


def evaluate_model(evaluators: Mapping[str, Any], model: Model) -> dict[str, float]:
    """All metrics of a model, which encodes queries and documents with its own prompts, if any."""

    def encode(texts: list[str], *, side: SideName) -> Any:
        name = prompt_name(model.prompts, side)
        return model.encode(texts, prompt="" if name is None else model.prompts[name])

    return evaluation.evaluate(evaluators, encode)


def recorded(run: str | Path) -> dict[str, dict[str, float]]:
    """Metrics that a run's own evaluations reported `before` the first step and `after` training, if any."""
    found = {}
    metrics = Path(run, "metrics.jsonl")
    lines = _lines(metrics) if metrics.is_file() else []
    before = {
        key.removeprefix("evaluate/"): value
        for line in lines
        if line["step"] == 0
        for key, value in line.items()
        if key.startswith("evaluate/") and value is not None
    }
    if before:
        found["before"] = before
    result = load_result(run)
    if result is not None and result["evaluation"]:
        found["after"] = result["evaluation"]
    return found


def _lines(metrics: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; skips a line that a killed process left half-written."""
    found = []
    for line in metrics.read_bytes().splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and "step" in content:
            found.append(content)
    return found


def _recipe(models: Sequence[str], config: str | None) -> Recipe:
    if config is not None:
        return load_recipe(config)
    for name in models:
        if Path(name, "config.yaml").is_file():
            return run_recipe(name)
    raise UserError(f"evaluate: none of {', '.join(models)} is a run folder. Pass a recipe as --config.")
