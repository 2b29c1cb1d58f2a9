"""`jdistill train`: store to run folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from jdistill import teacher
from jdistill.backend import check_compiler
from jdistill.checkpoint import complete_steps, load_student_params
from jdistill.config import UserError
from jdistill.loader import Loader
from jdistill.parallel import check_rows, make_mesh, process_0_first
from jdistill.recipe import Recipe
from jdistill.store import HiddenTable, Store, TeacherVectors, TokenTable, check_teacher, check_width, token_table
from jdistill.student import Corpus, Side, Student, load_architecture, make_student
from jdistill.student.config import Prompts
from jdistill.train import TrainResult
from jdistill.train import train as train_student
from jdistill.train.hidden_cache import check_something_learns, hidden_table
from jdistill.verbs.checks import check_labels, check_student, check_surroundings, check_terms
from jdistill.verbs.evaluate import evaluate_params, make_evaluators
from jdistill.verbs.tokens import check_tokenizer

LANES = 128
"""Places of a row that a TPU computes on side by side."""


def train(recipe: Recipe) -> TrainResult:
    """Train the recipe's student on its store, in its run folder; goes on from the last checkpoint.

    Raises:
      UserError: if store and recipe do not fit each other, or the run folder was begun with another recipe; and
        whatever `check_surroundings`, `check_tokenizer`, `check_student` and `check_terms` find, before anything long
        is begun.
    """
    check_compiler()
    store, made = open_store(recipe), list[str]()
    evaluators = make_evaluators(recipe, store)
    check_surroundings(recipe, evaluators)
    check_labels(recipe, store)
    compared = check_tokenizer(recipe, download=True)
    made += [compared.line] if compared is not None and not compared.equal else []
    student, params = make_run_student(recipe, store, say=made.append)
    check_student(recipe, student, evaluators)
    mesh = make_mesh(fsdp=recipe.train.fsdp)
    check_rows(recipe.train.global_batch_size, mesh)
    check_terms(recipe, store, student, params, mesh)
    check_packing(recipe.loader.packing, mesh.devices.flat[0].platform)
    with process_0_first():
        loader = make_loader(recipe, store, student, params, pieces=mesh.size * recipe.train.microbatches)
    return train_student(
        recipe.train,
        student=student,
        params=params,
        terms=recipe.terms(),
        loader=loader,
        evaluate=(lambda params: evaluate_params(evaluators, student, params)) if evaluators else None,
        folder=recipe.run,
        recipe=recipe.model_dump(mode="json"),
        mesh=mesh,
        seed=recipe.seed,
        made=made,
    )


def check_packing(packing: int | None, platform: str) -> None:
    """Refuse packed rows that a TPU would fill up to the next multiple of what it computes on side by side."""
    if packing is not None and packing % LANES and platform == "tpu":
        above = -(-packing // LANES) * LANES
        raise UserError(
            f"loader.packing={packing}: a TPU computes on {LANES} places side by side, so rows must be a multiple of "
            f"that. Set it to {above}."
        )


def open_store(recipe: Recipe) -> Store:
    """The recipe's store, checked against the recipe's teachers.

    Raises:
      UserError: if it is missing, incomplete or damaged, or was made with other teachers.
    """
    store = Store.open(recipe.store)
    for name, config in recipe.teachers.items():
        check_teacher(store, name, teacher.describe(config))
        store.teacher(name).require_whole()
    return store


def make_run_student(
    recipe: Recipe, store: Store, *, say: Callable[[str], None] | None = None
) -> tuple[Student, dict[str, Any]]:
    """The student before its first step, with a projection to each teacher whose space some term needs.

    One that takes long to make, since it is fitted to the training texts, is read from the run's folder where the run
    goes on.

    Args:
      recipe: the run.
      store: its texts and teachers.
      say: is told in a line what the student was made of.
    Raises:
      UserError: if there is no projection and the widths differ, or teachers side by side need one.
    """
    widths = teacher_widths(recipe, store)
    if recipe.student.cuts.any and complete_steps(recipe.run):
        student, params = load_architecture(Path(recipe.run) / "architecture"), load_student_params(recipe.run)
    else:
        student, params = make_student(
            recipe.student,
            teacher_widths=widths,
            key=jax.random.key(recipe.seed),
            corpus=partial(corpus_of, recipe, store),
            say=say,
        )
    check_projections(recipe, store, student)
    return student, params


def teacher_widths(recipe: Recipe, store: Store) -> dict[str, int]:
    """The width of each teacher whose space some term needs."""
    projected = {t for term in recipe.terms().values() if term.needs().projection for t in term.teachers}
    return {name: store.teacher(name).width for name in sorted(projected)}


def check_projections(recipe: Recipe, store: Store, student: Student) -> None:
    """Refuse a student that lacks the projection to a teacher.

    Raises:
      UserError: if the widths differ and there is no projection, or teachers side by side need one.
    """
    for name in teacher_widths(recipe, store):
        if name not in student.config.projections:
            check_width(store, name, student.width)
    _check_side_by_side(recipe, student)


def corpus_of(recipe: Recipe, store: Store, prompts: Prompts) -> Corpus:
    """The store's training texts, with the student's prompts, be they the recipe's or those of `init`."""
    rows = store.rows("train")
    sides = [] if rows.queries is None else [Side(rows.queries, prompts.query)]
    return Corpus(store.texts.take, [*sides, Side(rows.documents, prompts.document)], seed=recipe.seed)


def _check_side_by_side(recipe: Recipe, student: Student) -> None:
    """One vector cannot equal those of several teachers: at least one of them needs a projection."""
    for name, term in recipe.terms().items():
        if not term.needs().projection or len(term.teachers) < 2:
            continue
        if not any(teacher in student.config.projections for teacher in term.teachers):
            raise UserError(
                f"losses.{name}.teacher: the vectors of {' and '.join(term.teachers)} are to be matched side by side, "
                f"but student.projection is '{recipe.student.projection}' and all widths are {student.width}, so there "
                "is no projection. Set student.projection: linear."
            )


def make_loader(recipe: Recipe, store: Store, student: Student, params: Any = None, *, pieces: int = 1) -> Loader:
    """Batches of the store's training rows, in the student's tokens.

    Args:
      recipe: the run.
      store: its texts and teachers.
      student: whose tokenizer and prompts.
      params: the student's; with them, batches carry the encoder's hidden states where `student.backbone` is cached,
        which are computed now if they are not on disk. Without, they never do.
      pieces: devices times microbatches.

    Raises:
      UserError: as Loader and `hidden_table` do, or if nothing of a student whose backbone is cached learns.
    """
    rows = store.rows("train")

    def tokens(ids: Any, prompt: str) -> TokenTable:
        return token_table(
            store.path, store.texts, tokenizer=student.tokenizer, prompt=prompt, max_length=student.max_length, ids=ids
        )

    queries = None if rows.queries is None else tokens(rows.queries, student.prompts.query)
    documents = tokens(rows.documents, student.prompts.document)
    cached = params is not None and student.config.backbone == "cached"
    return Loader(
        recipe.loader,
        rows=rows,
        queries=queries,
        documents=documents,
        teachers=teachers_of(recipe, store),
        global_batch_size=recipe.train.global_batch_size,
        seed=recipe.seed,
        pieces=pieces,
        prompts={
            "query": student.passed_over(student.prompts.query),
            "document": student.passed_over(student.prompts.document),
        },
        hidden=_hidden_tables(recipe, store, student, params, queries, documents) if cached else None,
    )


def _hidden_tables(
    recipe: Recipe, store: Store, student: Student, params: Any, queries: TokenTable | None, documents: TokenTable
) -> dict[Literal["query", "document"], HiddenTable]:
    """The encoder's hidden states of every training text."""
    check_something_learns(recipe.train, student, params, recipe.terms())
    table = partial(hidden_table, store.path, student, params)
    found: dict[Literal["query", "document"], HiddenTable] = {}
    if queries is not None:
        found["query"] = table(queries, title="hidden states of queries")
    return {**found, "document": table(documents, title="hidden states of documents")}


def teachers_of(recipe: Recipe, store: Store) -> dict[str, TeacherVectors]:
    """The vectors of every teacher that some term learns from."""
    return {name: store.teacher(name) for term in recipe.terms().values() for name in term.teachers}
