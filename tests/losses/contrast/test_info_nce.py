import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Array
from pydantic import ValidationError

from jdistill.config import UserError
from jdistill.losses import InfoNCE, TeacherFilter, info_nce
from jdistill.losses.contrast.false_negatives import Filter
from jdistill.losses.schedule import Ramp
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS, Inputs, plain
from tests.losses.measure import view

ALL = ("q2d", "q2q", "d2q", "d2d")
OPTIONS = {
    "q2d": {},
    "all directions": {"directions": ALL},
    "symmetric": {"directions": ("q2d", "d2q"), "partition": "per_direction"},
    "dot": {"directions": ("q2d", "d2d"), "similarity": "dot"},
    "in_batch": {"hardness": "in_batch", "strength": 3.0},
    "hard": {"hardness": "hard", "strength": 3.0},
    "all of it": {"directions": ALL, "hardness": "all", "strength": 3.0},
}
ROWS, CANDIDATES, WIDTH = 4, 11, 5
some_seed = st.integers(0, 2**32 - 1)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Queries, candidates, scattered positives, and owners among whom some candidates have none."""
    random = np.random.default_rng(seed)
    positives = random.permutation(CANDIDATES)[:ROWS]
    owners = random.integers(-1, ROWS, CANDIDATES)
    owners[positives] = np.arange(ROWS)
    vectors = random.standard_normal((ROWS + CANDIDATES, WIDTH)).astype(np.float32)
    return vectors[:ROWS], vectors[ROWS:], positives, owners


def oracle(q, c, positives, owners, *, temperature, similarity="cosine", directions=("q2d",), partition="joint",
           hardness="none", strength=0.0):  # fmt: skip
    """InfoNCE of each row in float64, one score at a time."""
    q, c = np.float64(q), np.float64(c)
    if similarity == "cosine":
        q, c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, c))
    losses = []
    for i, p in enumerate(positives):
        logits = {direction: [] for direction in directions}
        for j in range(len(c)):
            own = owners[j] == i
            raised = {"none": False, "in_batch": not own, "hard": own, "all": True}[hardness] and j != p
            logits["q2d"].append(q[i] @ c[j] * (1 / temperature + strength * raised))
            if "d2d" in directions and not own:
                logits["d2d"].append(c[p] @ c[j] / temperature)
        for j in range(len(q)):
            if "d2q" in directions:
                logits["d2q"].append(c[p] @ q[j] / temperature)
            if "q2q" in directions and j != i:
                logits["q2q"].append(q[i] @ q[j] / temperature)
        own_pair = q[i] @ c[p] / temperature
        sums = [np.exp(np.array(x) - own_pair).sum() for x in logits.values()]
        losses.append(np.log(sum(sums)) if partition == "joint" else np.mean(np.log(sums)))
    return np.array(losses)


@pytest.mark.parametrize("candidates", [1, 2, 5])
def test_equal_documents_cost_the_log_of_their_number(candidates: int) -> None:
    documents = jnp.ones((candidates, 3))
    values = info_nce(jnp.ones((1, 3)), documents, jnp.array([0]), temperature=0.01)
    np.testing.assert_allclose(values, np.log(candidates), atol=2e-6)


def test_two_documents_by_hand() -> None:
    """Scores 1 and 0 at temperature 1/2: log(1 + e^-2), and 2 more for the wrong one."""
    queries, documents = jnp.array([[2.0, 0.0], [2.0, 0.0]]), jnp.eye(2)
    values = info_nce(queries, documents, jnp.array([0, 1]), temperature=0.5)
    np.testing.assert_allclose(values, [np.log(1 + np.exp(-2)), np.log(1 + np.exp(-2)) + 2], rtol=1e-6)


def test_hardness_by_hand() -> None:
    """The own negative scores 1, the other row's document -1, the own pair 0, all at temperature 1."""
    q, c = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0], [-1.0, 0.0], [1.0, 0.0]])

    def value(hardness: str) -> float:
        owners = jnp.array([0, 1, 0])
        return float(info_nce(q, c, jnp.array([0]), temperature=1.0, owners=owners, hardness=hardness, strength=2.0)[0])

    e = np.exp
    assert value("none") == pytest.approx(np.log(1 + e(1) + e(-1)), rel=1e-6)
    assert value("hard") == pytest.approx(np.log(1 + e(3) + e(-1)), rel=1e-6)
    assert value("in_batch") == pytest.approx(np.log(1 + e(1) + e(-3)), rel=1e-6)
    assert value("all") == pytest.approx(np.log(1 + e(3) + e(-3)), rel=1e-6)


def test_a_tiny_loss_keeps_its_digits() -> None:
    """exp(-50) is lost beside 1 in float32, and so would be the difference of logsumexp and positive."""
    loss = info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=0.02)
    np.testing.assert_allclose(loss, np.exp(-50), rtol=1e-5)


@functools.cache
def compiled(options: str, block: int = 1024):
    """The loss as a function of arrays, compiled once for all draws."""

    @jax.jit
    def loss(q, c, positives, owners, temperature, left_out=None, **more):
        filters = [] if left_out is None else [leave_out(left_out)]
        return info_nce(
            q,
            c,
            positives,
            owners=owners,
            temperature=temperature,
            false_negatives=filters,
            block=block,
            **more,
            **OPTIONS[options],
        )

    return lambda *arrays, temperature, **more: loss(*arrays, jnp.float32(temperature), **more)


def leave_out(documents: Array) -> Filter:
    """A filter made by hand: it leaves out some documents, for all rows."""
    queries = jnp.zeros(ROWS, bool)
    return Filter(
        excludes=lambda rows, candidates, scores: rows[:, None] | candidates[None],
        rows={"queries": queries, "documents": queries},
        candidates={"queries": queries, "documents": documents},
    )


@settings(max_examples=60, deadline=None)
@given(some_seed, st.sampled_from([0.05, 1.0]), st.sampled_from(list(OPTIONS)), st.sampled_from([4, 1024]))
def test_equals_the_oracle_for_scattered_positives(seed: int, temperature: float, options: str, block: int) -> None:
    drawing = drawn(seed)
    value = compiled(options, block)(*drawing, temperature=temperature)
    expected = oracle(*drawing, temperature=temperature, **OPTIONS[options])
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6 / temperature)


@settings(max_examples=30, deadline=None)
@given(some_seed, st.sampled_from(list(OPTIONS)))
def test_the_order_of_candidates_changes_nothing(seed: int, options: str) -> None:
    q, c, positives, owners = drawn(seed)
    order = np.random.default_rng(seed).permutation(CANDIDATES)
    loss = compiled(options, 4)
    moved = loss(q, c[order], np.argsort(order)[positives], owners[order], temperature=0.5)
    np.testing.assert_allclose(moved, loss(q, c, positives, owners, temperature=0.5), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(some_seed, st.sampled_from([x for x in OPTIONS if x != "dot"]), st.sampled_from([0.01, 0.05, 1.0]))
def test_lengths_change_nothing_under_cosine(seed: int, options: str, temperature: float) -> None:
    q, c, positives, owners = drawn(seed)
    lengths = np.random.default_rng(seed).uniform(0.1, 10, (ROWS + CANDIDATES, 1)).astype(np.float32)
    loss = compiled(options)
    scaled = loss(q * lengths[:ROWS], c * lengths[ROWS:], positives, owners, temperature=temperature)
    straight = loss(q, c, positives, owners, temperature=temperature)
    np.testing.assert_allclose(scaled, straight, rtol=1e-5, atol=2e-6 / temperature)


@settings(max_examples=30, deadline=None)
@given(some_seed, st.sampled_from(list(OPTIONS)))
def test_rows_by_themselves_have_the_same_loss(seed: int, options: str) -> None:
    """As on several devices, each of which has some of the rows and all candidates."""
    q, c, positives, owners = drawn(seed)
    loss, mine = compiled(options, 4), np.array([3, 1])
    part = loss(q[mine], c, positives[mine], owners, temperature=0.5, all_queries=q, rows=mine)
    whole = loss(q, c, positives, owners, temperature=0.5)
    np.testing.assert_allclose(part, whole[mine], rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(some_seed, st.sampled_from(list(OPTIONS)))
def test_candidates_that_are_left_out_change_nothing(seed: int, options: str) -> None:
    q, c, positives, owners = drawn(seed)
    random = np.random.default_rng(seed)
    more = np.concatenate([c, random.standard_normal((3, WIDTH)).astype(np.float32)])
    loss, added = compiled(options, 4), np.arange(len(more)) >= CANDIDATES
    filtered = loss(q, more, positives, np.append(owners, [0, -1, 2]), temperature=0.5, left_out=added)
    np.testing.assert_allclose(filtered, loss(q, c, positives, owners, temperature=0.5), rtol=1e-5, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(some_seed)
def test_one_direction_by_itself_is_joint(seed: int) -> None:
    q, c, positives, _ = map(jnp.asarray, drawn(seed))
    values = [info_nce(q, c, positives, temperature=0.2, partition=p) for p in ("joint", "per_direction")]
    np.testing.assert_allclose(*values, rtol=1e-6)


def test_candidates_have_no_owner_by_default() -> None:
    q, c, positives, _ = map(jnp.asarray, drawn(3))
    alone = jnp.full(CANDIDATES, -1).at[positives].set(jnp.arange(ROWS))
    options = {"temperature": 0.5, "directions": ALL, "hardness": "in_batch", "strength": 2.0}
    np.testing.assert_array_equal(
        info_nce(q, c, positives, **options), info_nce(q, c, positives, owners=alone, **options)
    )


@pytest.mark.parametrize(
    "options",
    [
        *({"directions": ("q2d", direction)} for direction in ("q2q", "d2q", "d2d")),
        *({"hardness": which, "strength": 5.0} for which in ("in_batch", "hard", "all")),
        *({"false_negatives": {"by": by}, "teacher": TEACHER} for by in ("text_hash", "student", "teacher")),
        {"directions": ("q2d", "d2q"), "partition": "per_direction"},
        {"similarity": "dot"},
        {"temperature": 0.5},
    ],
    ids=str,
)
def test_every_option_changes_the_value(options: dict) -> None:
    values = [value_of(loss, INPUTS["duplicate texts"]) for loss in (InfoNCE(), InfoNCE(**options))]
    assert abs(values[0] - values[1]) > 1e-4


def value_of(loss: InfoNCE, inputs: Inputs, progress: float = 0.0) -> float:
    return float(loss(view(Case(loss, lambda _: None, progress=progress), inputs)).mean())


def test_strength_follows_its_ramp() -> None:
    ramp = InfoNCE(hardness="all", strength=Ramp(start=0, stop=8))
    fixed = InfoNCE(hardness="all", strength=2.0)
    inputs = plain(negatives=1)
    assert value_of(ramp, inputs, progress=0.25) == pytest.approx(value_of(fixed, inputs), rel=1e-6)


def test_only_a_temperature_with_limits_is_learned() -> None:
    assert InfoNCE().parameters() == {}
    loss = InfoNCE(temperature={"start": 0.02})
    assert loss.parameters().keys() == {"log_temperature"}
    seen = view(Case(loss, lambda _: None), plain(negatives=1))
    gradient = jax.jit(jax.grad(lambda p: loss(seen._replace(parameters=p)).mean()))(loss.parameters())
    assert float(gradient["log_temperature"]) != 0


def test_a_teacher_is_needed_only_as_a_filter() -> None:
    assert not InfoNCE(false_negatives={"by": "student"}).needs().teacher
    loss = InfoNCE(false_negatives=[{"by": "text_hash"}, {"by": "teacher"}], teacher=TEACHER)
    assert loss.needs().teacher
    assert not loss.needs().projection
    assert loss.false_negatives[1] == TeacherFilter()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": ("d2q",)}, "lack q2d"),
        ({"directions": ()}, "lack q2d"),
        ({"directions": ("q2d", "q2d")}, "name one twice"),
        ({"directions": ("q2d", "q2q"), "partition": "per_direction"}, "does not go with q2q"),
        ({"directions": ("q2d", "d2d", "q2q"), "partition": "per_direction"}, "d2d and q2q"),
        ({"hardness": "hard"}, "has no effect"),
        ({"strength": 5.0}, "has no effect"),
        ({"hardness": "hard", "strength": -1.0}, "greater than or equal to 0"),
        ({"hardness": "hard", "strength": {"start": 1.0, "stop": -1.0}}, "never below 0"),
        ({"temperature": 0.0}, "greater than 0"),
        ({"false_negatives": {"by": "guide"}}, "guide"),
    ],
)
def test_options_that_make_no_loss_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        InfoNCE(**options)


def test_the_pure_function_refuses_them_too() -> None:
    with pytest.raises(ValueError, match="does not go with d2d"):
        info_nce(jnp.eye(2), jnp.eye(2), jnp.arange(2), temperature=1.0, directions=("q2d", "d2d"),
                 partition="per_direction")  # fmt: skip


def test_plain_texts_have_no_query() -> None:
    with pytest.raises(UserError, match="plain texts without queries"):
        value_of(InfoNCE(), plain(queries=False))


@pytest.mark.parametrize(
    ("filters", "option", "alone"),
    [
        ((), None, False),
        (({"by": "text_hash"},), None, False),
        (({"by": "teacher"},), None, True),
        (({"by": "student"},), None, True),
        (({"by": "teacher"},), "all", False),
        ((), "documents", True),
    ],
)
def test_what_d2d_contrasts_with_by_default(
    filters: tuple[dict[str, str], ...], option: str | None, alone: bool
) -> None:
    """As MultipleNegativesRankingLoss without a guide, and as GISTEmbedLoss with one."""
    loss = InfoNCE.model_validate({"false_negatives": filters, "directions": ("q2d", "d2d"), "d2d_candidates": option})
    assert loss.documents_alone == alone


def test_d2d_of_the_rows_own_documents_sees_no_hard_negative() -> None:
    random = np.random.default_rng(0)
    q, documents, negatives = (jnp.float32(random.standard_normal((4, 8))) for _ in range(3))
    candidates, at = jnp.concatenate([negatives, documents]), jnp.arange(4, 8)
    options = {"temperature": 0.2, "directions": ("q2d", "d2d")}
    ours = info_nce(q, candidates, at, d2d_columns=at, **options)

    def logits(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (np.float64(x), np.float64(y)))
        return x @ y.T / 0.2

    fellows = np.where(np.eye(4) > 0, -np.inf, logits(documents, documents))
    q2d = logits(q, candidates)
    total = np.log(np.exp(np.concatenate([q2d, fellows], axis=1)).sum(axis=1))
    np.testing.assert_allclose(ours, total - q2d[np.arange(4), at], rtol=1e-5)
