"""Distributions made of scores: how far two lie apart, term by term, and what a softmax in float32 loses.

A softmax over many candidates is never held: its normaliser comes from `blocks.logsumexp_over`, and a divergence is the
sum over candidates of one of the functions here, `terms(s, student_normaliser, t, teacher_normaliser)`, with
q = exp(s - student_normaliser) and p = exp(t - teacher_normaliser). Each gives its derivative with respect to s itself,
the way through the normaliser included: nothing is differentiated through a logsumexp, only the student learns, and a
backward pass keeps one number per score.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Divergence = Literal["kl", "cross_entropy", "mse"]

SPAN = 87.0
"""Logits that lie further than this below the largest have a probability that float32 rounds to 0."""


def logits_of(scores: Float[Array, "*b c"], temperature: Array | float) -> Float[Array, "*b c"]:
    """`(scores - their row's largest) / temperature`: the logits of the same softmax, with the digits that count.

    Float32 keeps seven digits of a logit of 5,000, of which a softmax needs those behind the point. Counted from the
    largest, the candidates that have any probability have small logits, and their normaliser is nearly 0.

    Args:
      scores: float32; -inf where a candidate is excluded. A row that holds nothing else stays so.
      temperature: > 0.
    """
    largest = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    return (scores - jnp.where(jnp.isfinite(largest), largest, 0.0)) / temperature


def kl_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
) -> Float[Array, "*b c"]:
    """Parts of KL(p || q) that are never negative: `p log(p / q) + q - p`.

    Adding sum (q - p) = 0 makes each part non-negative, so that nothing cancels in the sum where the two are close: at
    high temperatures p is 1 / c and log(p / q) nearly 0. The derivative is q - p.

    Args:
      s: the student's logits; -inf where q is 0.
      student_normaliser: their logsumexp over all candidates.
      t: the teacher's logits; -inf where p is 0.
      teacher_normaliser: their logsumexp.
    """
    p, gap, log_ratio = _compared(s, student_normaliser, t, teacher_normaliser)
    return _sloped(s, p * log_ratio + gap, gap)


def _compared(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
) -> tuple[Float[Array, "*b c"], Float[Array, "*b c"], Float[Array, "*b c"]]:
    """`p`, `q - p` and `log(p / q)`, the last 0 where p is 0.

    Where p and q nearly agree, above all where both are nearly 1, their difference keeps no digits in float32; that of
    their logarithms does.
    """
    p, q = jnp.exp(t - teacher_normaliser), jnp.exp(s - student_normaliser)
    possible = t > -jnp.inf
    log_ratio = jnp.where(possible, (t - s) - (teacher_normaliser - student_normaliser), 0.0)
    close = possible & (jnp.abs(log_ratio) < 1)
    return p, jnp.where(close, p * jnp.expm1(jnp.where(close, -log_ratio, 0.0)), q - p), log_ratio


def cross_entropy_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
) -> Float[Array, "*b c"]:
    """Parts of the cross-entropy, `-p log q`, with derivative q - p; arguments as of `kl_terms`."""
    p, gap, _ = _compared(s, student_normaliser, t, teacher_normaliser)
    return _sloped(s, p * jnp.where(t > -jnp.inf, student_normaliser - s, 0.0), gap)


def gap_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
    around: Float[Array, "*b #c"] | float = 0.0,
) -> Float[Array, "*b c"]:
    """Parts of the student's mean of `q - p - around`, without derivative; other arguments as of `kl_terms`."""
    _, gap, _ = _compared(s, student_normaliser, t, teacher_normaliser)
    return lax.stop_gradient(jnp.exp(s - student_normaliser) * (gap - around))


def squared_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
    mean_gap: Float[Array, "*b #c"],
    correction: Float[Array, "*b #c"],
) -> Float[Array, "*b c"]:
    """Squared differences of probabilities, `(q - p)^2`, with derivative 2 q (q - p - mean of q - p under q).

    Where q is nearly 1 the bracket is nearly 0, so the mean comes in two parts, the second being what is left around
    the first.

    Args:
      s: the student's logits, and the next three arguments as of `kl_terms`.
      student_normaliser: their logsumexp.
      t: the teacher's logits.
      teacher_normaliser: their logsumexp.
      mean_gap: the sum over candidates of `gap_terms`.
      correction: the sum of `gap_terms` around `mean_gap`.
    """
    _, gap, _ = _compared(s, student_normaliser, t, teacher_normaliser)
    return _sloped(s, jnp.square(gap), 2 * jnp.exp(s - student_normaliser) * ((gap - mean_gap) - correction))


def _sloped(s: Float[Array, "*b c"], value: Float[Array, "*b c"], slope: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """`value`, with `slope` as its derivative with respect to `s`."""
    value, slope, at = lax.stop_gradient((value, slope, s))
    return value + slope * jnp.where(at > -jnp.inf, s - at, 0.0)


Terms = Callable[..., Float[Array, "*b c"]]
Over = Callable[..., Float[Array, "*b"]]
"""`(terms, *more) -> sum over all candidates of terms(s, student_normaliser, t, teacher_normaliser, *more)`."""


def squared(over: Over) -> Float[Array, "*b"]:
    """Sum of `squared_terms`."""
    mean_gap = over(gap_terms)
    return over(squared_terms, mean_gap, over(gap_terms, mean_gap))


DIVERGENCES: dict[Divergence, Callable[[Over], Float[Array, "*b"]]] = {
    "kl": lambda over: over(kl_terms),
    "cross_entropy": lambda over: over(cross_entropy_terms),
    "mse": squared,
}


def lost_targets(logits: np.ndarray, temperature: float, *, what: str, option: str) -> list[str]:
    """What a user should know about a teacher's logits before a softmax is taken of them.

    Args:
      logits: `[..., c]`, a softmax goes over the last axis; -inf where something is excluded on purpose.
      temperature: divides them.
      what: what they are, in words; plural.
      option: the option of the configuration that holds the temperature.

    Returns:
      One sentence per problem: values that are no numbers, and probabilities that float32 rounds to 0.

    Example:
      >>> print(lost_targets(np.array([[9.0, 0.0]]), 0.1, what="its scores", option="temperature")[0][:54])
      50.0 % of the teacher's probabilities are 0 in float32
    """
    rows = np.asarray(logits, np.float32).reshape(-1, logits.shape[-1])
    bad = (np.isnan(rows) | np.isposinf(rows)).any(axis=-1)
    if bad.any():
        return [
            f"{what} hold NaN or infinity in {bad.sum()} of {bad.size} rows, so the loss and every gradient would be "
            "NaN. Embed or score those texts again."
        ]
    finite = np.isfinite(rows)
    highest = rows.max(axis=-1, initial=-np.inf, keepdims=True, where=finite)
    below = np.where(finite, highest - np.where(finite, rows, 0.0), 0.0)
    lost = finite & (below > SPAN * temperature)
    if not lost.any():
        return []
    spread = float(below.max())
    return [
        f"{100 * lost.sum() / finite.sum():.1f} % of the teacher's probabilities are 0 in float32, so nothing is "
        f"learned about their order: {what} span up to {spread:.3g} in one row, and {option} divides them by "
        f"{temperature:g}. Raise {option} to {spread / SPAN:.2g} or more to keep them all."
    ]
