"""A teacher beside its students: measured as the recipe asks it, by its model or else by its stored vectors."""

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
    """The store lacks a text that an evaluator asks for."""


def find_teacher(recipe: Recipe, model: str) -> str | None:
    """Name of the teacher of the recipe that is meant by a name, a folder or an id of the hub; None if none is.

    A run folder is no teacher, whatever it is called; a folder that has a teacher's name counts as itself if it is
    written as `./NAME`.

    Raises:
      UserError: if several teachers of the recipe are this model, asked in different ways.
    """
    if Path(model, "architecture").is_dir():
        return None
    if model in recipe.teachers:
        return model
    names = [name for name, config in recipe.teachers.items() if _same_model(model, config.model)]
    if len(names) > 1:
        raise UserError(
            f"evaluate: {model} is the model of several teachers of the recipe ({', '.join(names)}), which are asked "
            "in different ways. Name one of them instead, or each."
        )
    return names[0] if names else None


def evaluate_teacher(
    evaluators: Mapping[str, EvaluatorConfig | Fidelity], recipe: Recipe, store: Store | None, name: str
) -> dict[str, float]:
    """Every metric of a teacher with the prompts, length, layer, width and precision that the recipe gives it.

    Its model encodes the texts, as `embed` has it do. Where that cannot be loaded, since PyTorch is missing, the model
    lies elsewhere, or its vectors were imported, the store's vectors stand for it: then what asks for other texts, or
    for the model's speed, is left out with a warning.

    Args:
      evaluators: name -> what is measured.
      recipe: its `teachers` say how the teacher is asked.
      store: the recipe's, where there is one.
      name: the teacher's name in the recipe.

    Raises:
      UserError: if neither model nor stored vectors can be measured, or the store's vectors were made differently.
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
        """Equal texts are encoded once, so that their vectors are equal to the last bit, as a student's are."""
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
        missing = f"there is no store at {recipe.store}" if store is None else f"the store at {store.path} has none"
        raise UserError(f"evaluate: {why} Nor can the teacher's stored vectors stand for it: {missing}.") from why
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
            if isinstance(evaluator, Throughput):  # reading a file is no speed of a model
                raise _NotStoredError
            metrics |= measure({key: evaluator}, encode)
        except _NotStoredError:
            left_out.append(key)
    if not metrics:
        raise UserError(
            f"evaluate: {why} Nor can the teacher's stored vectors stand for it: the store at {store.path} has "
            f"nothing for {', '.join(left_out)}."
        ) from why
    _warn(name, left_out, why)
    return metrics


def _warn(name: str, left_out: list[str], why: UserError) -> None:
    without = f", which has nothing for {', '.join(left_out)}: left out" if left_out else ""
    print(f"warning: teacher '{name}' is measured by its vectors in the store{without}. {why}", file=sys.stderr)


def _same_model(model: str, configured: str) -> bool:
    """Whether both are one id of the hub, or one folder however it is written."""
    here, there = Path(model).expanduser(), Path(configured).expanduser()
    return model == configured or (here.is_dir() and there.is_dir() and here.samefile(there))
