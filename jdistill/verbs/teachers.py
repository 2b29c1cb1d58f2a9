"""Evaluate a teacher with the recipe's settings, by running its model or else with its stored vectors."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jdistill.config import UserError
from jdistill.evaluate import Encode, EvaluatorConfig, Fidelity, SideName, Throughput
from jdistill.evaluate import evaluate as measure
from jdistill.recipe import Recipe
from jdistill.store import Store, check_teacher
from jdistill.teacher import Teacher, describe


class _NotStoredError(Exception):
    """The store lacks a text that an evaluator needs."""


def find_teacher(recipe: Recipe, model: str) -> str | None:
    """Name of the recipe's teacher given by name, folder or hub id; None if it is none of them.

    A run folder is never a teacher. Write `./NAME` for a folder that has the same name as a teacher.

    Raises:
      UserError: if several teachers of the recipe use this model.
    """
    if Path(model, "architecture").is_dir():
        return None
    if model in recipe.teachers:
        return model
    names = [name for name, config in recipe.teachers.items() if _same_model(model, config.model)]
    if len(names) > 1:
        raise UserError(
            f"evaluate: {model} is the model of several teachers of the recipe ({', '.join(names)}) with different "
            "settings. Pass the names of the teachers instead."
        )
    return names[0] if names else None


def evaluate_teacher(
    evaluators: Mapping[str, EvaluatorConfig | Fidelity], recipe: Recipe, store: Store | None, name: str
) -> dict[str, float]:
    """All metrics of a teacher with the recipe's prompts, length, layer, width and precision.

    Runs the model, as `embed` does. If it cannot be loaded (PyTorch is missing, the model is elsewhere, or its vectors
    were imported), the stored vectors are used instead; evaluators of other texts or of speed are then skipped with a
    warning.

    Args:
      evaluators: name -> evaluator.
      recipe: its `teachers` has the teacher's settings.
      store: the recipe's store, if there is one.
      name: the teacher's name in the recipe.

    Raises:
      UserError: if neither model nor stored vectors are available, or the stored vectors have other settings.
    """
    try:
        teacher = Teacher(recipe.teachers[name], name=name)
    except UserError as error:
        return _by_stored_vectors(evaluators, recipe, store, name, why=error)
    if store is not None and name in store.teachers:
        check_teacher(store, name, teacher.description)
    return measure(evaluators, _encode_with(teacher))


def _encode_with(teacher: Teacher) -> Encode:
    def encode(texts: list[str], *, side: SideName) -> Float[np.ndarray, "n d"]:
        """Encode equal texts once, so that their vectors are bit-identical, as a student's are."""
        places: dict[str, int] = {}
        of_texts = [places.setdefault(text, len(places)) for text in texts]
        return teacher.encode(list(places), side=side)[of_texts]

    return encode


def _by_stored_vectors(
    evaluators: Mapping[str, EvaluatorConfig | Fidelity],
    recipe: Recipe,
    store: Store | None,
    name: str,
    *,
    why: UserError,
) -> dict[str, float]:
    if store is None or name not in store.teachers:
        missing = f"no store at {recipe.store}" if store is None else f"the store at {store.path} has none"
        raise UserError(f"evaluate: {why} There are no stored vectors to use instead: {missing}.") from why
    check_teacher(store, name, describe(recipe.teachers[name]))
    vectors = store.teacher(name)

    def encode(texts: list[str], *, side: SideName) -> Float[np.ndarray, "n d"]:
        found = vectors.of(texts, side)
        if found is None:
            raise _NotStoredError
        return found

    metrics: dict[str, float] = {}
    left_out = []
    for key, evaluator in evaluators.items():
        try:
            if isinstance(evaluator, Throughput):  # reading vectors from disk does not measure the model
                raise _NotStoredError
            metrics |= measure({key: evaluator}, encode)
        except _NotStoredError:
            left_out.append(key)
    if not metrics:
        raise UserError(
            f"evaluate: {why} The stored vectors cannot be used instead: the store at {store.path} lacks texts for "
            f"{', '.join(left_out)}."
        ) from why
    _warn(name, left_out, why)
    return metrics


def _warn(name: str, left_out: list[str], why: UserError) -> None:
    without = f"; skipped {', '.join(left_out)}, which the store cannot answer" if left_out else ""
    print(f"warning: evaluating teacher '{name}' with its stored vectors{without}. {why}", file=sys.stderr)


def _same_model(model: str, configured: str) -> bool:
    """Whether both are the same hub id or the same folder."""
    here, there = Path(model).expanduser(), Path(configured).expanduser()
    return model == configured or (here.is_dir() and there.is_dir() and here.samefile(there))
