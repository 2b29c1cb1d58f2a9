"""Views of a plain batch for tests of the losses on scores, and what they are compared with."""

import jax
import numpy as np

from jdistill.losses import LossConfig
from jdistill.types import LossInputs
from tests.losses.cases import Case
from tests.losses.inputs import Inputs
from tests.losses.measure import view


def view_for(term: LossConfig, inputs: Inputs, scores: str | None = None) -> LossInputs:
    return view(Case(term, lambda given: given, scores=scores), inputs)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.float64(x)
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    x = np.float64(x)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def vectors(seed: int, *shapes: tuple[int, ...], shift: float = 0.0) -> list[jax.Array]:
    random = np.random.default_rng(seed)
    return [jax.numpy.float32(random.standard_normal(shape) + shift) for shape in shapes]
