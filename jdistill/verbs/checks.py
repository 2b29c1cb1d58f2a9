"""What would otherwise be found after hours of training: checked before the first step, and by `show --check`."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jdistill.config import UserError
from jdistill.evaluate import metric_names
from jdistill.export.hf import projected_to
from jdistill.loader import require_rows
from jdistill.plan.job import Job, trace
from jdistill.plan.rows import RowForm
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student import Student
from jdistill.train.groups import frozen_paths
from jdistill.train.optimizer import AdamW
from jdistill.train.sinks import make_sinks
from jdistill.verbs.evaluate import Evaluators

_LENGTH = 8
"""Tokens of a text where only the form of a batch counts."""


def check_surroundings(recipe: Recipe, evaluators: Evaluators) -> None:
    """Check what training needs besides the student: a folder to write, packages of sinks, files of evaluators.

    Raises:
      UserError: naming the setting or the file.
    """
    _check_writable(recipe.run)
    make_sinks(recipe.train.sinks, Path(recipe.run))
    for evaluator in evaluators.values():
        evaluator.prepare()


def check_student(recipe: Recipe, student: Student, evaluators: Evaluators, *, projections: bool = True) -> None:
    """Check what depends on the student: room for text behind its prompts, names of metrics, the export's projection.

    Args:
      recipe: the run.
      student: in a plan it may be without a tokenizer, and its prompts are then not checked.
      evaluators: those of the run.
      projections: whether the student's projections are known, which takes the teachers' widths.

    Raises:
      UserError: naming the setting.
    """
    if student.tokenizer is not None:
        _check_prompts(recipe, student)
    keep = recipe.train.keep_best
    names = metric_names(evaluators, student.width)
    if keep is not None and keep.metric not in names:
        raise UserError(
            f"train.keep_best.metric: evaluation reports no '{keep.metric}'. It reports: "
            f"{', '.join(names) or 'nothing'}. Name one of these, or add the evaluation that reports it."
        )
    if projections and recipe.export.projection == "dense":
        projected_to(student, recipe.export.teacher)


def check_labels(recipe: Recipe, store: Store) -> None:
    """Check that terms which read the classes of rows can learn from those of the store.

    Raises:
      UserError: naming the term.
    """
    labels = store.rows("train").labels
    counts = [] if labels is None else np.bincount(labels, minlength=len(store.labels)).tolist()
    for name, term in recipe.losses.items():
        try:
            term.check_labels(dict(zip(store.labels, counts, strict=False)))
        except UserError as error:
            raise UserError(f"losses.{name}: {error}") from None


def check_terms(recipe: Recipe, store: Store, student: Student, params: Any, mesh: Mesh) -> None:
    """Check that every term finds in the store's rows what it learns from, and that the batch divides into pieces.

    A step is traced for texts of a few tokens: nothing is computed, and nothing compiled.

    Args:
      recipe: the run.
      store: its rows and teachers.
      student: the student.
      params: its parameters, or their shapes.
      mesh: the devices.

    Raises:
      UserError: as the first step would.
    """
    rows, count = store.rows("train"), recipe.train.global_batch_size
    require_rows(len(rows.documents), count)
    terms, length = recipe.terms(), min(student.max_length or _LENGTH, _LENGTH)
    form = RowForm(
        query_length=0 if rows.queries is None else length,
        document_length=length,
        documents=rows.documents.shape[1],
        scores=0 if rows.scores is None else rows.scores.shape[1],
        labels=rows.labels is not None,
    )
    shared = recipe.loader.packing is not None or recipe.loader.folding  # then the loader tells into how many pieces
    total = recipe.train.total_steps(max(1, len(rows.documents) // count))
    job = Job(
        name=recipe.name,
        student=student,
        params=params,
        terms=terms,
        optimizer=AdamW(recipe.train.optimizer, total, frozen=frozen_paths(student)),
        rows=form,
        teacher_widths={name: store.teacher(name).width for term in terms.values() for name in term.teachers},
        global_batch_size=count,
        microbatches=1 if shared else recipe.train.microbatches,
        fsdp=1,
        seed=recipe.seed,
        total_steps=total,
    )
    trace(job, mesh, count)


def _check_prompts(recipe: Recipe, student: Student) -> None:
    given = recipe.student.prompts.model_dump()
    for side, prompt in student.prompts.model_dump().items():
        taken = len(student.tokenizer.encode([prompt], None)[0]) if prompt else 0
        if prompt and taken >= student.max_length:
            which = (
                "the prompt" if given[side] is not None else f"the prompt of {recipe.student.init}, {prompt[:80]!r},"
            )
            better = "Shorten the prompt" if given[side] is not None else "Give a shorter one, or '' for none"
            raise UserError(
                f"student.prompts.{side}: {which} takes {taken} tokens, special ones included, and a text is cut "
                f"after {student.max_length} (student.max_length), so that every text would be the prompt alone. "
                f"{better}, or set max_length above {taken}."
            )


def _check_writable(run: str) -> None:
    folder = Path(run).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"run: {nearest} is a file, but the run needs a folder at {run}. Give `run` another path.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"run: {nearest} is not writable, so no folder can be made at {run}. Give `run` another path.")
