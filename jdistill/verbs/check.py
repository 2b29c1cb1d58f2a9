"""`jdistill show --check`: check that a recipe would train, without training."""

from pathlib import Path

import jax
import numpy as np

from jdistill.evaluate import Fidelity
from jdistill.parallel import make_mesh
from jdistill.plan.student import planned_student
from jdistill.recipe import Recipe
from jdistill.student import Student
from jdistill.student.build import resolve
from jdistill.student.tokenizer_folder import read_tokenizer
from jdistill.train.hidden_cache import check_something_learns
from jdistill.verbs.before_training import check_labels, check_student, check_surroundings, check_terms
from jdistill.verbs.evaluate import make_evaluators
from jdistill.verbs.prune import check_pruned
from jdistill.verbs.tokenizer_check import check_tokenizer
from jdistill.verbs.train import check_projections, open_store, teacher_widths


def check(recipe: Recipe) -> str:
    """Run all checks that `train` makes before its first step, and summarize them in a few lines.

    No text is encoded and no teacher is run. Without a store, checks of texts and vectors are skipped. Batches are
    checked for one device.

    Raises:
      UserError: as `train` would.
    """
    check_pruned(recipe)
    store = open_store(recipe) if Path(recipe.store, "manifest.json").is_file() else None
    evaluators = make_evaluators(recipe, store)
    check_surroundings(recipe, evaluators)
    if store is not None:
        check_labels(recipe, store)
    compared = check_tokenizer(recipe, download=False)
    planned = planned_student(recipe.student, {} if store is None else teacher_widths(recipe, store))
    student = _with_tokenizer(recipe, planned.student)
    check_something_learns(recipe.train, student, planned.params, recipe.terms())
    if store is not None:
        check_projections(recipe, store, student)
    elif recipe.fidelity is not None and any(source.role == "heldout" for source in recipe.data.values()):
        nothing = np.zeros((0, student.width), np.float32)
        evaluators |= {f"fidelity_{name}": Fidelity(recipe.fidelity, {}, nothing) for name in recipe.teachers}
    check_student(recipe, student, evaluators, projections=store is not None)
    if store is not None:
        check_terms(recipe, store, student, planned.params, make_mesh(jax.local_devices()[:1]))
    unmade = f"store: none at {recipe.store} yet; create it with jdistill embed"
    lines = [
        unmade if store is None else "store: complete, made with these teachers",
        f"student: {student.config.encoder.kind}, vectors of width {student.width}",
        *([] if compared is None else [f"tokenizer: {compared.line}"]),
        f"evaluations: {', '.join(evaluators) or 'none'}",
        f"losses: {', '.join(recipe.losses)}",
    ]
    return f"{recipe.name}: no errors found\n" + "".join(f"  {line}\n" for line in lines)


def _with_tokenizer(recipe: Recipe, student: Student) -> Student:
    """The student with its tokenizer if that is on disk; plans read no tokenizer for randomly initialized students."""
    config, architecture = recipe.student, student.config
    if config.tokenizer is None or not Path(config.tokenizer).is_dir():
        return student
    tokenizer = read_tokenizer(config.tokenizer, special_tokens=architecture.encoder.special_tokens)
    if config.init is None:
        architecture = resolve(config, None, tokenizer, architecture.projections)
    return Student(architecture, tokenizer)
