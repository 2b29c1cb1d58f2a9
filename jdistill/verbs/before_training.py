"""Checks before the first step, shared by `train` and `show --check`, of what would otherwise fail hours later."""

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
from jdistill.student.hf_folder import check_exportable
from jdistill.train.groups import Groups, frozen_paths
from jdistill.train.optimizer import make_optimizer
from jdistill.train.sinks import check_sinks
from jdistill.verbs.evaluate import Evaluators

_LENGTH = 8
"""Tokens per text where only the structure of a batch matters."""


def check_surroundings(recipe: Recipe, evaluators: Evaluators) -> None:
    """Check what training needs besides the student: a writable run folder, the sinks' packages, the evaluators' files.

    Raises:
      UserError: naming the setting or the file.
    """
    _check_writable(recipe.run)
    check_sinks(recipe.train.sinks)
    for evaluator in evaluators.values():
        evaluator.prepare()


def check_student(recipe: Recipe, student: Student, evaluators: Evaluators, *, projections: bool = True) -> None:
    """Check what depends on the student: length of its prompts, metric names, the export.

    Args:
      recipe: the run.
      student: its prompts are checked only if it has a tokenizer, which it may lack in a plan.
      evaluators: those of the run.
      projections: whether the student's projections are known, which requires the teachers' widths.

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
            f"{', '.join(names) or 'nothing'}. Choose one of these, or add an evaluation that reports it."
        )
    if recipe.export is None:
        return
    check_exportable(student.config.pooling)
    if projections and recipe.export.projection == "dense":
        projected_to(student, recipe.export.teacher)


def check_labels(recipe: Recipe, store: Store) -> None:
    """Check that the store's labels suit the terms that use labels.

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
    """Check that the store's rows have what every term needs, and that the batch divides into microbatches.

    Traces a step with short texts, without compiling or computing anything.

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
    shared = recipe.loader.packing is not None or recipe.loader.folding  # then the loader lays out microbatches itself
    total = recipe.train.total_steps(max(1, len(rows.documents) // count))
    config = recipe.train.optimizer
    groups = Groups(config.groups, config.weight_decay, frozen_paths(student))
    job = Job(
        name=recipe.name,
        student=student,
        params=params,
        terms=terms,
        optimizer=make_optimizer(config, recipe.train.schedule, total, groups),
        groups=groups,
        rows=form,
        teacher_widths={name: store.teacher(name).width for term in terms.values() for name in term.teachers},
        global_batch_size=count,
        microbatches=1 if shared else recipe.train.microbatches,
        fsdp=1,
        seed=recipe.seed,
        total_steps=total,
        ema=None if recipe.train.ema is None else recipe.train.ema.decay,
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
            better = "Shorten the prompt" if given[side] is not None else "Set a shorter one, or '' for none"
            raise UserError(
                f"student.prompts.{side}: {which} takes {taken} tokens, special tokens included, which leaves no room "
                f"for text within student.max_length {student.max_length}. {better}, or set max_length above {taken}."
            )


def _check_writable(run: str) -> None:
    folder = Path(run).absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"run: {nearest} is a file, but the run needs a folder at {run}. Choose another `run`.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"run: {nearest} is not writable, cannot create {run}. Choose another `run`.")
