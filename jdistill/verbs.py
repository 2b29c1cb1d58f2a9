"""One function for each verb of the command line: a Recipe in, files and a few printed lines out.

This is where the rooms meet. Whatever can be refused is refused here, before the first device computation.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jdistill import checkpoint
from jdistill import teacher as teachers
from jdistill.config import UserError, apply_overrides, dump_yaml, load_config, parse
from jdistill.data import fingerprint, read_rows
from jdistill.evaluate import (
    EvaluatorConfig,
    Fidelity,
    format_json,
    format_table,
    primary_metrics,
)
from jdistill.evaluate import evaluate as evaluate_all
from jdistill.recipe import Recipe
from jdistill.store import Store, check_teacher, check_width, token_table, write_texts

if TYPE_CHECKING:  # what follows imports jax, which `embed` and `show` can do without
    from jdistill.loader import Loader
    from jdistill.model import Model
    from jdistill.student import Student
    from jdistill.train import TrainResult

Evaluators = dict[str, EvaluatorConfig | Fidelity]


def load_recipe(config: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, `key=value` overrides applied."""
    return load_config(Recipe, config, overrides)


# ── embed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def embed(recipe: Recipe, *, shard: str = "0/1") -> None:
    """Write every text once, then each teacher's vector of it; goes on where it was killed.

    Args:
      recipe: its `store`, `data` and `teachers` are used.
      shard: `"i/n"` embeds every n-th shard from i, so that n jobs share the work.
    """
    part = _shard(shard)
    marks = {name: fingerprint(source) for name, source in recipe.data.items()}
    sources = [(name, source.role, read_rows(name, source)) for name, source in recipe.data.items()]
    write_texts(recipe.store, sources, fingerprint=marks)
    for name, config in recipe.teachers.items():
        teachers.embed(config, recipe.store, name=name, shards=part)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {text}: expected I/N with 0 <= I < N, such as 0/8 for the first of eight jobs.")
    return int(index), int(count)


# ── train ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def train(recipe: Recipe) -> "TrainResult":
    """Train the recipe's student on its store, in its run folder; goes on from the last checkpoint."""
    import jax

    from jdistill.parallel import make_mesh
    from jdistill.student import make_student, save_architecture
    from jdistill.train import train as train_student

    store = open_store(recipe)
    needed = {term.teacher: store.teacher(term.teacher) for term in recipe.terms().values() if term.teacher}
    widths = {name: vectors.width for name, vectors in needed.items()}
    student, params = make_student(recipe.student, teacher_widths=widths, key=jax.random.key(recipe.seed))
    _check_widths(recipe, store, student)
    save_architecture(student, Path(recipe.run) / "architecture")
    evaluators = make_evaluators(recipe, store)
    return train_student(
        recipe.train,
        student=student,
        params=params,
        terms=recipe.terms(),
        loader=make_loader(recipe, store, student),
        evaluate=(lambda params: evaluate_params(evaluators, student, params)) if evaluators else None,
        folder=recipe.run,
        recipe=recipe.model_dump(mode="json"),
        mesh=make_mesh(),
        seed=recipe.seed,
    )


def open_store(recipe: Recipe) -> Store:
    """The recipe's store, checked against the recipe's teachers.

    Raises:
      UserError: if it is missing or incomplete, or was made with other teachers.
    """
    store = Store.open(recipe.store)
    for name, config in recipe.teachers.items():
        check_teacher(store, name, teachers.describe(config))
    return store


def make_loader(recipe: Recipe, store: Store, student: "Student") -> "Loader":
    """Batches of the store's training rows, in the student's tokens."""
    from jdistill.loader import Loader

    rows = store.rows("train")

    def tokens(ids: Any, prompt: str) -> Any:
        return token_table(
            store.path, store.texts, tokenizer=student.tokenizer, prompt=prompt, max_length=student.max_length, ids=ids
        )

    return Loader(
        recipe.loader,
        rows=rows,
        queries=None if rows.queries is None else tokens(rows.queries, student.prompts.query),
        documents=tokens(rows.documents, student.prompts.document),
        teachers={term.teacher: store.teacher(term.teacher) for term in recipe.terms().values() if term.teacher},
        global_batch_size=recipe.train.global_batch_size,
        seed=recipe.seed,
    )


def _check_widths(recipe: Recipe, store: Store, student: "Student") -> None:
    """Without a projection, terms in the teacher's space need vectors of the teacher's width."""
    if recipe.student.projection is None:
        for term in recipe.terms().values():
            if term.space == "teacher" and term.teacher is not None:
                check_width(store, term.teacher, student.width)


# ── evaluate ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def evaluate(models: Sequence[str], *, config: str | None = None, as_json: bool = False) -> str:
    """Every model's metrics side by side, as a table or as JSON.

    Args:
      models: run folders, model folders or hub ids.
      config: YAML file whose `evaluate` section is used; by default that of the first run folder among `models`.
      as_json: every metric as JSON instead of the main ones as a table.
    """
    from jdistill.model import load

    recipe = _evaluation_recipe(models, config)
    store = open_store(recipe) if recipe.fidelity and Path(recipe.store, "manifest.json").is_file() else None
    evaluators = make_evaluators(recipe, store)
    if not evaluators:
        raise UserError("evaluate: the recipe has no 'evaluate' section. Add one, or give a recipe with --config.")
    results = {name: evaluate_model(evaluators, load(name)) for name in models}
    if as_json:
        return format_json(results)
    return format_table(results) + f"\nmain metrics: {', '.join(primary_metrics(evaluators))}"


def make_evaluators(recipe: Recipe, store: Store | None) -> Evaluators:
    """The recipe's evaluators, and its fidelity to each teacher on the held-out rows of the store."""
    evaluators: Evaluators = dict(recipe.evaluate)
    if recipe.fidelity is None or store is None or "heldout" not in store.roles:
        return evaluators
    documents = store.rows("heldout").documents[:, 0]
    ids = documents[recipe.fidelity.rows(len(documents))]
    for name in recipe.teachers:
        vectors = store.teacher(name).take(ids, "document")
        evaluators[f"fidelity_{name}"] = Fidelity(recipe.fidelity, store.texts.take(ids), vectors)
    return evaluators


def evaluate_params(evaluators: Mapping[str, Any], student: "Student", params: Any) -> dict[str, float]:
    """Every metric of a student with these parameters."""
    from jdistill.model import Model

    return evaluate_model(evaluators, Model(student, params))


def evaluate_model(evaluators: Mapping[str, Any], model: "Model") -> dict[str, float]:
    """Every metric of a model; queries and documents get the model's own prompts."""
    return evaluate_all(evaluators, lambda texts, *, side: model.encode(texts, prompt_name=side))


def _evaluation_recipe(models: Sequence[str], config: str | None) -> Recipe:
    if config is not None:
        return load_recipe(config)
    for name in models:
        if Path(name, "config.yaml").is_file():
            return run_recipe(name)
    raise UserError(f"evaluate: none of {', '.join(models)} is a run folder, so give a recipe with --config.")


def run_recipe(run: str | Path) -> Recipe:
    """The resolved recipe that a run folder was trained with."""
    return parse(Recipe, checkpoint.resolved_recipe(run), where=str(Path(run) / "config.yaml"))


# ── export ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def show(config: str | None, overrides: Sequence[str] = (), *, schema: bool = False) -> str:
    """The resolved recipe as YAML, or the JSON Schema of every recipe."""
    if schema:
        return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"
    if config is None:
        raise UserError("show: which configuration? Give a YAML file, or --schema for the schema of all.")
    return dump_yaml(load_recipe(config, overrides))
