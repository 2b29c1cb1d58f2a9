"""Divergences between softmax distributions, term by term, and a check for probabilities that underflow in float32.

A softmax over many candidates is never stored: its normaliser comes from `blocks.logsumexp_over`, and a divergence is
the sum over candidates of one of the functions here, `terms(s, student_normaliser, t, teacher_normaliser)`, with
q = exp(s - student_normaliser) and p = exp(t - teacher_normaliser). Each function defines its own derivative with
respect to s, which includes the dependence of the normaliser on s. So nothing is differentiated through a logsumexp,
the teacher gets no gradient, and the backward pass stores one number per score.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Divergence = Literal["kl", "cross_entropy", "mse"]

SPAN = 87.0
"""Logits further than this below the largest have a probability that float32 rounds to 0."""


def logits_of(scores: Float[Array, "*b c"], temperature: Array | float) -> Float[Array, "*b c"]:
    """`(scores - row maximum) / temperature`: logits of the same softmax, without loss of precision.

    A softmax needs the decimals of a logit, of which float32 has few left at 5,000. After subtracting the maximum, all
    candidates with noticeable probability have small logits, and the normaliser is nearly 0.

    Args:
      scores: float32; -inf where a candidate is excluded. A row of nothing but -inf is unchanged.
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
    """Terms of KL(p || q), each >= 0: `p log(p / q) + q - p`.

    Adding sum (q - p) = 0 makes each term non-negative, so that the sum does not cancel where p and q are close: at
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

    Where p and q nearly agree, above all where both are nearly 1, q - p cancels in float32; the difference of their
    logarithms does not, so q - p is computed as p expm1(log q - log p).
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
    """Terms of the cross-entropy, `-p log q`, with derivative q - p; arguments as for `kl_terms`."""
    p, gap, _ = _compared(s, student_normaliser, t, teacher_normaliser)
    return _sloped(s, p * jnp.where(t > -jnp.inf, student_normaliser - s, 0.0), gap)


def gap_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
    around: Float[Array, "*b #c"] | float = 0.0,
) -> Float[Array, "*b c"]:
    """Terms of the mean of `q - p - around` under q, without derivative; other arguments as for `kl_terms`."""
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

    Where q is nearly 1 the bracket is nearly 0 and would cancel, so the mean is given in two parts: an estimate, and
    a correction, the mean of what remains after subtracting it.

    Args:
      s: the student's logits, and the next three arguments as for `kl_terms`.
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
    """Sum of `squared_terms` over all candidates."""
    mean_gap = over(gap_terms)
    return over(squared_terms, mean_gap, over(gap_terms, mean_gap))


DIVERGENCES: dict[Divergence, Callable[[Over], Float[Array, "*b"]]] = {
    "kl": lambda over: over(kl_terms),
    "cross_entropy": lambda over: over(cross_entropy_terms),
    "mse": squared,
}


def underflow_warnings(logits: np.ndarray, temperature: float, *, what: str, option: str) -> list[str]:
    """Check a teacher's logits for NaN and for probabilities that underflow.

    Args:
      logits: `[..., c]`, softmax over the last axis; -inf where something is excluded on purpose.
      temperature: divides them.
      what: name of the logits for the message; plural.
      option: the config option that sets the temperature.

    Returns:
      One sentence per problem: NaN or infinite values, and probabilities that float32 rounds to 0.

    Example:
      >>> print(lost_targets(np.array([[9.0, 0.0]]), 0.1, what="its scores", option="temperature")[0][:54])
      50.0 % of the teacher's probabilities are 0 in float32
    """
    rows = np.asarray(logits, np.float32).reshape(-1, logits.shape[-1])
    bad = (np.isnan(rows) | np.isposinf(rows)).any(axis=-1)
    if bad.any():
        return [
            f"{what} contain NaN or infinity in {bad.sum()} of {bad.size} rows, so the loss and every gradient would "
            "be NaN. Embed or score those texts again."
        ]
    finite = np.isfinite(rows)
    highest = rows.max(axis=-1, initial=-np.inf, keepdims=True, where=finite)
    below = np.where(finite, highest - np.where(finite, rows, 0.0), 0.0)
    lost = finite & (below > SPAN * temperature)
    if not lost.any():
        return []
    spread = float(below.max())
    return [
        f"{100 * lost.sum() / finite.sum():.1f} % of the teacher's probabilities are 0 in float32, so the "
        f"student cannot learn their order: {what} span up to {spread:.3g} in one row, and {option} divides them by "
        f"{temperature:g}. Raise {option} to {spread / SPAN:.2g} or more to keep them all."
    ]
