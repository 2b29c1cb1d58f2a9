"""`jdistill train`: store to run folder."""

from typing import Any

import jax

from jdistill import teacher
from jdistill.config import UserError
from jdistill.loader import Loader
from jdistill.parallel import make_mesh, process_0_first
from jdistill.recipe import Recipe
from jdistill.store import Store, TeacherVectors, TokenTable, check_teacher, check_width, token_table
from jdistill.student import Student, make_student
from jdistill.train import TrainResult
from jdistill.train import train as train_student
from jdistill.verbs.evaluate import evaluate_params, make_evaluators


def train(recipe: Recipe) -> TrainResult:
    """Train the recipe's student on its store, in its run folder; goes on from the last checkpoint.

    Raises:
      UserError: if store and recipe do not fit each other, or the run folder was begun with another recipe.
    """
    store = open_store(recipe)
    student, params = make_run_student(recipe, store)
    with process_0_first():
        loader = make_loader(recipe, store, student)
    mesh = make_mesh(fsdp=recipe.train.fsdp)
    _check_packing(recipe, mesh.size)
    evaluators = make_evaluators(recipe, store)
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
    )


def _check_packing(recipe: Recipe, devices: int) -> None:
    """Packed rows mix the texts of a batch, so they lie on one device and are encoded in one piece."""
    packing, pieces = recipe.loader.packing, recipe.train.microbatches
    problem = (
        f"packs for one device, but there are {devices}"
        if devices > 1
        else f"mixes the texts of a batch, but train.microbatches={pieces} encodes it in pieces"
    )
    if packing is not None and (devices > 1 or pieces > 1):
        raise UserError(
            f"loader.packing={packing}: {problem}. Set it to null: then texts are padded to one of loader.shapes "
            "lengths."
        )


def open_store(recipe: Recipe) -> Store:
    """The recipe's store, checked against the recipe's teachers.

    Raises:
      UserError: if it is missing or incomplete, or was made with other teachers.
    """
    store = Store.open(recipe.store)
    for name, config in recipe.teachers.items():
        check_teacher(store, name, teacher.describe(config))
    return store


def make_run_student(recipe: Recipe, store: Store) -> tuple[Student, dict[str, Any]]:
    """The student before its first step, with a projection to each teacher whose space some term needs.

    Raises:
      UserError: if there is no projection and the widths differ, or teachers side by side need one.
    """
    projected = {t for term in recipe.terms().values() if term.needs().projection for t in term.teachers}
    widths = {name: store.teacher(name).width for name in sorted(projected)}
    student, params = make_student(recipe.student, teacher_widths=widths, key=jax.random.key(recipe.seed))
    for name in widths:
        if name not in student.config.projections:
            check_width(store, name, student.width)
    _check_side_by_side(recipe, student)
    return student, params


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


def make_loader(recipe: Recipe, store: Store, student: Student) -> Loader:
    """Batches of the store's training rows, in the student's tokens."""
    rows = store.rows("train")

    def tokens(ids: Any, prompt: str) -> TokenTable:
        return token_table(
            store.path, store.texts, tokenizer=student.tokenizer, prompt=prompt, max_length=student.max_length, ids=ids
        )

    return Loader(
        recipe.loader,
        rows=rows,
        queries=None if rows.queries is None else tokens(rows.queries, student.prompts.query),
        documents=tokens(rows.documents, student.prompts.document),
        teachers=teachers_of(recipe, store),
        global_batch_size=recipe.train.global_batch_size,
        seed=recipe.seed,
    )


def teachers_of(recipe: Recipe, store: Store) -> dict[str, TeacherVectors]:
    """The vectors of every teacher that some term learns from."""
    return {name: store.teacher(name) for term in recipe.terms().values() for name in term.teachers}
