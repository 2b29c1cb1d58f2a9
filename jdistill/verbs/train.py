"""`jdistill train`: from a store to a run folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from jdistill import teacher
from jdistill.backend import check_compiler
from jdistill.config import UserError
from jdistill.loader import Loader
from jdistill.parallel import check_rows, make_mesh, process_0_first
from jdistill.recipe import Recipe
from jdistill.store import HiddenTable, Store, TeacherVectors, TokenTable, check_teacher, check_width, token_table
from jdistill.student import Student, make_student
from jdistill.student.build import describe_student, read_pretrained
from jdistill.train import Run, TrainResult
from jdistill.train import train as train_student
from jdistill.train.hidden_cache import check_something_learns, hidden_table
from jdistill.verbs.before_training import check_labels, check_student, check_surroundings, check_terms
from jdistill.verbs.evaluate import evaluate_params, make_evaluators
from jdistill.verbs.prune import check_pruned
from jdistill.verbs.tokenizer_check import check_tokenizer

LANES = 128
"""Lanes of a TPU vector register; row lengths are padded to multiples of it."""


def train(recipe: Recipe) -> TrainResult:
    """Train the recipe's student on its store, in its run folder; resumes from the last checkpoint.

    Raises:
      UserError: if store and recipe do not match, the run folder belongs to another recipe, or one of
        `check_surroundings`, `check_tokenizer`, `check_student` and `check_terms` fails. All checks come first.
    """
    check_compiler()
    check_pruned(recipe)
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
    # Before the loader, which tokenizes all texts.
    check_terms(recipe, store, student, params, mesh)
    check_packing(recipe.loader.packing, mesh.devices.flat[0].platform)
    # The token cache is written once; other processes read it.
    with process_0_first():
        loader = make_loader(recipe, store, student, params, pieces=mesh.size * recipe.train.microbatches)
    run = Run(
        config=recipe.train,
        student=student,
        terms=recipe.terms(),
        loader=loader,
        evaluate=(lambda params: evaluate_params(evaluators, student, params)) if evaluators else None,
        folder=Path(recipe.run),
        recipe=recipe.model_dump(mode="json"),
        mesh=mesh,
        seed=recipe.seed,
    )
    return train_student(run, params, origin=made)


def check_packing(packing: int | None, platform: str) -> None:
    """Refuse packed rows that a TPU would pad to the next multiple of LANES."""
    if packing is not None and packing % LANES and platform == "tpu":
        above = -(-packing // LANES) * LANES
        raise UserError(
            f"loader.packing={packing}: must be a multiple of {LANES} on TPUs, which pad rows to it. Set it to {above}."
        )


def open_store(recipe: Recipe) -> Store:
    """The recipe's store, checked against the recipe's teachers.

    Raises:
      UserError: if the store is missing, incomplete or damaged, or was made with other teachers.
    """
    store = Store.open(recipe.store)
    for name, config in recipe.teachers.items():
        check_teacher(store, name, teacher.describe(config))
        store.teacher(name).require_whole()
    return store


def make_run_student(
    recipe: Recipe, store: Store, *, say: Callable[[str], None] | None = None
) -> tuple[Student, dict[str, Any]]:
    """The student before its first step, with a projection to each teacher that a term projects to.

    Args:
      recipe: the run.
      store: its texts and teachers.
      say: receives one line on the student's origin.
    Raises:
      UserError: if a projection is missing: the widths differ, or a term combines several teachers.
    """
    widths = teacher_widths(recipe, store)
    pretrained = read_pretrained(recipe.student)
    student, params = make_student(
        recipe.student, teacher_widths=widths, key=jax.random.key(recipe.seed), pretrained=pretrained
    )
    if say is not None:
        say(describe_student(recipe.student, pretrained, student, params))
    check_projections(recipe, store, student)
    return student, params


def teacher_widths(recipe: Recipe, store: Store) -> dict[str, int]:
    """The width of each teacher that a term projects to."""
    projected = {t for term in recipe.terms().values() if term.needs().projection for t in term.teachers}
    return {name: store.teacher(name).width for name in sorted(projected)}


def check_projections(recipe: Recipe, store: Store, student: Student) -> None:
    """Check that the student has every projection it needs.

    Raises:
      UserError: if a projection is missing: the widths differ, or a term combines several teachers.
    """
    for name in teacher_widths(recipe, store):
        if name not in student.config.projections:
            check_width(store, name, student.width)
    _check_side_by_side(recipe, student)


def _check_side_by_side(recipe: Recipe, student: Student) -> None:
    """A term of several teachers needs at least one projection: one vector cannot equal several."""
    for name, term in recipe.terms().items():
        if not term.needs().projection or len(term.teachers) < 2:
            continue
        if not any(teacher in student.config.projections for teacher in term.teachers):
            raise UserError(
                f"losses.{name}.teacher: several teachers ({', '.join(term.teachers)}) need a projection, but "
                f"student.projection is '{recipe.student.projection}' and all widths are {student.width}, so there is "
                "none. Set student.projection: linear."
            )


def make_loader(recipe: Recipe, store: Store, student: Student, params: Any = None, *, pieces: int = 1) -> Loader:
    """Batches of the store's training rows, tokenized for the student.

    Args:
      recipe: the run.
      store: its texts and teachers.
      student: its tokenizer and prompts are used.
      params: the student's parameters. If given and `student.backbone` is cached, batches include the encoder's hidden
        states, which are computed now unless they are on disk.
      pieces: devices times microbatches.

    Raises:
      UserError: as Loader and `hidden_table` do, or if a student with a cached backbone has nothing to train.
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
            "query": student.prompt_token_count(student.prompts.query),
            "document": student.prompt_token_count(student.prompts.document),
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
    """The vectors of every teacher that a term uses."""
    return {name: store.teacher(name) for term in recipe.terms().values() for name in term.teachers}
