"""Divergences between softmax distributions, term by term, and a check for probabilities that underflow in float32.

A softmax over many candidates is never stored: its normaliser comes from `blocks.logsumexp_over`, and a divergence is
the sum over candidates of one of the functions here. Of a candidate with the student's logit s and the teacher's t,

    q = exp(s - student_normaliser),   p = exp(t - teacher_normaliser)

The derivative of KL and cross-entropy with respect to s is q - p, the normaliser's dependence on s included. Their
terms define it so, because autodiff would sum p and q - p apart, and lose the digits of small differences. They are
therefore not differentiated with respect to the normaliser; only `squared_terms` is.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

Divergence = Literal["kl", "cross_entropy", "mse"]

SPAN = 87.0
"""Logits further than this below the largest have a probability that float32 rounds to 0: exp(-87.3) is its smallest
normal number, and XLA flushes smaller ones."""


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
      t: the teacher's logits, without gradient; -inf where p is 0.
      teacher_normaliser: their logsumexp.
    """
    p, difference, log_ratio = _compared(s, student_normaliser, t, teacher_normaliser)
    return _with_derivative(p * log_ratio + difference, difference, s)


def cross_entropy_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
) -> Float[Array, "*b c"]:
    """Terms of the cross-entropy, `-p log q`, with derivative q - p; arguments as for `kl_terms`."""
    p, difference, _ = _compared(s, student_normaliser, t, teacher_normaliser)
    return _with_derivative(p * jnp.where(t > -jnp.inf, student_normaliser - s, 0.0), difference, s)


def squared_terms(
    s: Float[Array, "*b c"],
    student_normaliser: Float[Array, "*b #c"],
    t: Float[Array, "*b c"],
    teacher_normaliser: Float[Array, "*b #c"],
) -> Float[Array, "*b c"]:
    """`(q - p)^2`, differentiated through s and through the normaliser; arguments as for `kl_terms`."""
    return jnp.square(_compared(s, student_normaliser, t, teacher_normaliser)[1])


Terms = Callable[[Array, Array, Array, Array], Float[Array, "*b c"]]

DIVERGENCES: dict[Divergence, Terms] = {"kl": kl_terms, "cross_entropy": cross_entropy_terms, "mse": squared_terms}


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
    # log p - log q, without rounding either logarithm first.
    possible = t > -jnp.inf
    log_ratio = jnp.where(possible, (t - s) - (teacher_normaliser - student_normaliser), 0.0)
    # Only here: farther apart nothing cancels, and expm1 could be infinite, times p = 0 NaN, also in the derivative.
    close = possible & (jnp.abs(log_ratio) < 1)
    return p, jnp.where(close, p * jnp.expm1(jnp.where(close, -log_ratio, 0.0)), q - p), log_ratio


def _with_derivative(
    value: Float[Array, "*b c"], derivative: Float[Array, "*b c"], s: Float[Array, "*b c"]
) -> Float[Array, "*b c"]:
    """`value`, with this derivative with respect to `s` and none with respect to anything else."""
    # s - fixed is 0 with derivative 1, so the sum has this value and this derivative. At -inf it would be NaN.
    value, derivative, fixed = lax.stop_gradient((value, derivative, s))
    return value + derivative * jnp.where(fixed > -jnp.inf, s - fixed, 0.0)


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
      >>> print(underflow_warnings(np.array([[9.0, 0.0]]), 0.1, what="its scores", option="temperature")[0][:54])
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
