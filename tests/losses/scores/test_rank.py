import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdistill.losses import Comparisons, ScoreRank, draw_comparisons, score_rank
from tests.losses.inputs import plain
from tests.losses.scores.scored import unit, vectors, view_for

N = 5


def all_pairs_of_pairs(student: np.ndarray, teacher: np.ndarray, margin: float) -> float:
    """Mean over every two pairs of different texts, from the definition in float64."""
    ours, theirs = (unit(x) @ unit(x).T for x in (student, teacher))
    pairs = list(itertools.combinations(range(N), 2))
    return np.mean(
        [
            max(margin - np.sign(theirs[a] - theirs[b]) * (ours[a] - ours[b]), 0)
            for a, b in itertools.combinations(pairs, 2)
        ]
    )


def exhaustive() -> Comparisons:
    """Of each text, every pair with another text beside every other pair, both ways round."""
    rows = []
    for i in range(N):
        mine = [(j, k, m) for j in range(N) for k in range(N) for m in range(N) if j != i and k != m]
        rows.append([x for x in mine if {i, x[0]} != {x[1], x[2]}])
    return Comparisons(*(jnp.asarray(x) for x in np.moveaxis(np.array(rows), 2, 0)))


def test_every_comparison_at_once_is_the_loss_over_all_pairs_of_pairs() -> None:
    s, t = vectors(0, (N, 6), (N, 4))
    ours = score_rank(s, s, s, t, t, t, exhaustive(), margin=0.1)
    assert float(ours.mean()) == pytest.approx(all_pairs_of_pairs(s, t, 0.1), rel=1e-6)


def test_drawn_comparisons_have_the_mean_of_all() -> None:
    """Pairs that meet themselves count 0: one in as many as there are pairs."""
    s, t = vectors(0, (N, 6), (N, 4))
    drawn = draw_comparisons(jax.random.key(0), N, N, 20000, among_themselves=True)
    value = score_rank(s, s, s, t, t, t, drawn, margin=0.1).mean()
    pairs = N * (N - 1) / 2
    assert float(value) == pytest.approx(all_pairs_of_pairs(s, t, 0.1) * (1 - 1 / pairs), rel=0.01)


@pytest.mark.parametrize(("m", "among_themselves"), [(6, True), (12, True), (6, False), (1, True), (1, False)])
def test_draws_are_in_range_and_no_text_meets_itself(m: int, among_themselves: bool) -> None:
    n = min(m, 6)
    drawn = draw_comparisons(jax.random.key(1), n, m, 500, among_themselves=among_themselves)
    assert all(x.shape == (n, 500) and x.min() >= 0 for x in drawn)
    assert int(drawn.candidates.max()) == int(drawn.other_candidates.max()) == m - 1
    assert int(drawn.other_texts.max()) == n - 1
    meets_itself = (drawn.candidates == jnp.arange(n)[:, None]) | (drawn.other_candidates == drawn.other_texts)
    assert bool(meets_itself.any()) == (not among_themselves or m == 1)


def test_a_tie_of_the_teacher_teaches_nothing() -> None:
    s = vectors(0, (4, 6))[0]
    t = jnp.ones((4, 3)) * 0.1
    drawn = draw_comparisons(jax.random.key(0), 4, 4, 30, among_themselves=True)
    value, gradient = jax.jit(jax.value_and_grad(lambda s: score_rank(s, s, s, t, t, t, drawn).sum()))(s)
    assert value == 0
    assert not gradient.any()


def test_the_right_order_by_a_margin_costs_nothing_and_the_wrong_one_the_difference() -> None:
    x = jnp.float32([[1, 0], [1, 0], [0, 1]])
    comparison = Comparisons(*(jnp.array([[k]]) for k in (1, 0, 2)))  # texts 0 and 1 against texts 0 and 2
    swapped = x[jnp.array([0, 2, 1])]
    assert score_rank(x[:1], x, x, x[:1], x, x, comparison, margin=0.5).tolist() == [0.0]
    assert score_rank(swapped[:1], swapped, swapped, x[:1], x, x, comparison, margin=0.5).tolist() == [1.5]
    assert score_rank(x[:1], x, x, x[:1], x, x, comparison, margin=1.5).tolist() == [0.5]


def test_comparisons_differ_from_step_to_step_and_grow_with_pairs() -> None:
    inputs, term = plain(), ScoreRank(teacher="t")
    here = view_for(term, inputs)
    later = here._replace(key=jax.random.key(5))
    assert float(term(here).mean()) != float(term(later).mean())
    assert np.isfinite(term(later)).all()


def test_memory_is_of_the_batch_not_of_its_comparisons() -> None:
    n, d, pairs = 512, 64, 256

    def loss(s: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return score_rank(s, s, s, t, t, t, draw_comparisons(key, n, n, pairs, among_themselves=True)).mean()

    x = jax.ShapeDtypeStruct((n, d), jnp.float32)
    program = jax.jit(jax.grad(loss)).lower(x, x, jax.eval_shape(lambda: jax.random.key(0))).compile()
    assert program.memory_analysis().temp_size_in_bytes < n * pairs * d * 4 / 4
