from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import ScoreKL, listwise_kl, score_kl
from jdistill.types import PairEmbeddings
from tests.losses.inputs import plain
from tests.losses.scores.scored import softmax, unit, vectors, view_for

AT = {"temperature": 0.3, "teacher_temperature": 0.2}


def divergence(s: np.ndarray, t: np.ndarray, kind: str) -> np.ndarray:
    """Of logits, from the definition in float64."""
    q, p = softmax(s), softmax(t)
    return {
        "kl": lambda: (p * np.log(p / q)).sum(axis=-1),
        "cross_entropy": lambda: -(p * np.log(q)).sum(axis=-1),
        "mse": lambda: ((p - q) ** 2).sum(axis=-1),
    }[kind]()


@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "mse"])
@pytest.mark.parametrize("noise", [1.0, 1e-3])
def test_value_and_gradient_of_the_definition(kind: str, noise: float) -> None:
    """Also where the distributions nearly agree, so that a sum of p log(p / q) would cancel."""
    t, u, x, y = vectors(1, (5, 8), (9, 8), (5, 8), (9, 8))
    q, c = t + noise * x, u + noise * y
    positives = jnp.array([4, 0, 8, 2, 2])

    def total(q: jax.Array, c: jax.Array) -> jax.Array:
        values = score_kl(q, c, t, u, positives, temperature=0.2, teacher_temperature=0.2, divergence=kind, block=4)
        return values.sum()

    def oracle(q: np.ndarray, c: np.ndarray) -> np.ndarray:
        return divergence(unit(q) @ unit(c).T / 0.2, unit(t) @ unit(u).T / 0.2, kind).sum() * 0.2**2

    value, gradient = jax.value_and_grad(total)(q, c)
    # A score is off by 6e-8 of its size, and here two scores differ by 1e-3 of it: 1e-4 in a square, give or take.
    np.testing.assert_allclose(value, oracle(q, c), rtol=3e-4 if noise < 1 else 1e-5)
    numeric = np.zeros(q.shape)
    for index in np.ndindex(q.shape):
        moved = [np.float64(q), np.float64(q)]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        numeric[index] = (oracle(moved[0], np.float64(c)) - oracle(moved[1], np.float64(c))) / 2e-5
    np.testing.assert_allclose(gradient, numeric, atol=1e-3 * np.abs(numeric).max() if noise < 1 else 1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["kl", "cross_entropy", "mse"]), st.sampled_from([1, 3, 9, 20]))
def test_order_of_candidates_their_length_and_the_block_do_not_matter(seed: int, kind: str, block: int) -> None:
    q, c, t, u = vectors(seed, (5, 6), (9, 6), (5, 4), (9, 4))
    order = np.random.default_rng(seed).permutation(9)
    loss = jax.jit(partial(score_kl, **AT), static_argnames=("divergence", "block"))
    value = loss(q, c, t, u, jnp.arange(5), divergence=kind)
    moved = jnp.asarray(np.argsort(order)[:5])
    changed = loss(2 * q, 3 * c[order], t, u[order], moved, divergence=kind, block=block)
    np.testing.assert_allclose(changed, value, rtol=2e-5, atol=1e-8)


@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_nothing_to_learn_where_student_and_teacher_agree(kind: str) -> None:
    t, u = vectors(0, (5, 8), (9, 8))
    total = lambda q: score_kl(q, u, t, u, jnp.arange(5), temperature=0.1, teacher_temperature=0.1, divergence=kind)  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(lambda q: total(q).sum()))(t)
    assert abs(value) <= 1e-9
    assert float(jnp.abs(gradient).max()) <= 1e-6


def test_a_batch_of_candidates_is_a_list_of_them() -> None:
    q, c, t, u = vectors(3, (5, 6), (9, 6), (5, 4), (9, 4))
    scores = jnp.float32(unit(q) @ unit(c).T), jnp.float32(unit(t) @ unit(u).T)
    np.testing.assert_allclose(
        score_kl(q, c, t, u, jnp.arange(5), **AT), listwise_kl(*scores, **AT), rtol=1e-5, atol=1e-8
    )


def test_temperature_of_the_teacher_is_the_students_if_left_out() -> None:
    inputs = plain()
    alike, other = ScoreKL(teacher="t", temperature=0.2), ScoreKL(teacher="t", temperature=0.2, teacher_temperature=1)
    values = [float(term(view_for(term, inputs)).mean()) for term in (alike, other)]
    same = ScoreKL(teacher="t", temperature=0.2, teacher_temperature=0.2)
    assert values[0] == float(same(view_for(same, inputs)).mean())
    assert values[0] != pytest.approx(values[1], rel=0.01)


def test_temperature_of_given_scores_is_1_if_left_out() -> None:
    assert ScoreKL(targets="scores", temperature=0.2).target_temperature == 1
    assert ScoreKL(targets="scores", temperature=0.2, teacher_temperature=3).target_temperature == 3


def test_further_candidates_of_a_row_are_columns_that_no_other_row_has() -> None:
    q, c, t, u, x, y = vectors(4, (5, 6), (9, 6), (5, 4), (9, 4), (10, 6), (10, 4))
    own = x.reshape(5, 2, 6), y.reshape(5, 2, 4)
    value = score_kl(q, c, t, u, jnp.arange(5), further=own, **AT, block=4)
    student, teacher = (
        jnp.float32(np.concatenate([unit(a) @ unit(b).T, np.einsum("bd,bkd->bk", unit(a), unit(z))], axis=1))
        for a, b, z in ((q, c, own[0]), (t, u, own[1]))
    )
    np.testing.assert_allclose(value, listwise_kl(student, teacher, **AT), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("kind", ["kl", "cross_entropy", "mse"])
def test_a_row_that_is_sure_of_itself_keeps_its_digits(kind: str) -> None:
    """All but a millionth of the probability is the own text's, for student and teacher: 1 - q and 1 - p have few."""
    q, t = (jnp.float32(unit(x) + 0.1) for x in vectors(6, (5, 64), (5, 64)))
    at = {"temperature": 0.04, "teacher_temperature": 0.04}
    total = jax.jit(lambda x: score_kl(x, x, t, t, None, **at, divergence=kind).sum())
    student, teacher = (unit(x) @ unit(x).T / 0.04 for x in (q, t))
    for scores in student, teacher:
        np.fill_diagonal(scores, 1 / 0.04)
        others = softmax(scores)[~np.eye(5, dtype=bool)]
        assert 1e-7 < others.max() < 1e-3
    np.testing.assert_allclose(total(q), divergence(student, teacher, kind).sum() * 0.04**2, rtol=3e-5)


def test_needs_vectors_only_where_it_reads_them() -> None:
    assert ScoreKL(teacher="t").needs().teacher
    assert not ScoreKL(targets="scores").needs().teacher
    assert ScoreKL(teacher="t", candidates="own").needs()._replace(teacher=False) == ScoreKL(targets="scores").needs()


@pytest.mark.parametrize(
    ("inputs", "scores", "message"),
    [
        (plain(negatives=1), None, "these rows have none. Name their column as score"),
        (plain(negatives=1), "pair", "have 2 documents .* and 1 scores"),
        (plain(negatives=0), "pair", "have one each. Name columns of hard negatives"),
        (plain(negatives=1, queries=False), "documents", "plain texts without queries"),
    ],
)
def test_data_that_lack_something_are_refused(inputs: object, scores: str | None, message: str) -> None:
    term = ScoreKL(targets="scores")
    with pytest.raises(UserError, match=message):
        term(view_for(term, inputs, scores))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "scores", "candidates": "all"}, "do not go with targets: scores"),
        ({"targets": "scores", "direction": "d2d"}, "do not go with targets: scores"),
        ({"candidates": "own", "direction": "q2q"}, "Leave direction out, or set candidates: documents"),
        ({"candidates": "documents_and_own", "direction": "d2d"}, "Leave direction out"),
        ({"candidates": "all", "direction": "d2q"}, "queries, which have no hard negatives"),
    ],
)
def test_options_that_do_not_go_together(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ScoreKL(**options)


@pytest.mark.parametrize("options", [{"candidates": "own"}, {"direction": "q2q"}, {"direction": "d2q"}])
def test_plain_texts_have_no_queries(options: dict) -> None:
    term = ScoreKL(teacher="t", **options)
    with pytest.raises(UserError, match="plain texts without queries"):
        term(view_for(term, plain(negatives=1, queries=False)))


def test_one_candidate_is_no_choice() -> None:
    term = ScoreKL(teacher="t", candidates="own")
    with pytest.raises(UserError, match=r"candidates: own .* have one each"):
        term(view_for(term, plain(negatives=0)))


class TestExamine:
    def test_scores_that_vanish(self) -> None:
        scores = jnp.float32([[8.0, -1.0, 7.9], [0.5, 0.4, -np.inf]])
        (problem,) = ScoreKL(targets="scores", teacher_temperature=0.05).check_targets(None, scores)
        assert "20.0 % of the teacher's probabilities" in problem
        assert "span up to 9 in one row" in problem
        assert "Raise teacher_temperature to 0.1 or more" in problem
        (problem,) = ScoreKL(targets="scores").check_targets(None, 20 * scores)
        assert "Raise teacher_temperature" in problem

    def test_scores_that_do_not(self) -> None:
        scores = jnp.float32([[8.0, -1.0], [-np.inf, -np.inf]])
        assert ScoreKL(targets="scores", teacher_temperature=1).check_targets(None, scores) == []
        assert ScoreKL(targets="scores").check_targets(None, None) == []

    def test_scores_that_are_no_numbers(self) -> None:
        (problem,) = ScoreKL(targets="scores").check_targets(None, jnp.float32([[0.0, np.nan], [1.0, 2.0]]))
        assert "NaN or infinity in 1 of 2 rows" in problem

    @pytest.mark.parametrize(
        ("candidates", "direction", "share"),
        [("own", "q2d", 12.5), ("documents_and_own", "q2d", 5.0), ("all", "d2d", 12.5)],
    )
    def test_vectors_of_other_candidates(self, candidates: str, direction: str, share: float) -> None:
        documents = np.zeros((4, 2, 2), np.float32)
        documents[..., 0], documents[1, 1] = 1, (-1, 0)
        term = ScoreKL(teacher="t", temperature=0.01, candidates=candidates, direction=direction)
        (problem,) = term.check_targets(PairEmbeddings(documents[:, 0], documents), None)
        assert problem.startswith(f"{share} %")

    @pytest.mark.parametrize("candidates", ["documents", "all"])
    def test_vectors(self, candidates: str) -> None:
        documents = np.zeros((4, 2, 2), np.float32)
        documents[..., 0], documents[1, 1] = 1, (-1, 0)
        teacher = PairEmbeddings(documents[:, 0], documents)
        term = ScoreKL(teacher="t", temperature=0.01, candidates=candidates)
        problems = term.check_targets(teacher, None)
        assert len(problems) == (candidates == "all")
        assert all("12.5 %" in problem and "Raise temperature to 0.023" in problem for problem in problems)
        assert term.check_targets(teacher._replace(queries=teacher.queries * np.nan), None)
