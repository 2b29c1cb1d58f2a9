from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.config import Config, UserError, load_config
from jdistill.losses import InfoNCE, Loss, StudentFilter, TeacherFilter, TextFilter, guided, info_nce, same_text
from jdistill.losses.contrast.false_negatives import Limit
from jdistill.losses.schedule import Ramp
from tests.losses.cases import TEACHER, Case
from tests.losses.inputs import INPUTS, Inputs, plain
from tests.losses.measure import view

ALL = ("q2d", "q2q", "d2q", "d2d")
E = np.exp


def left_out(filter_, side: str, pool: str) -> list[list[bool]]:
    """What a filter says of every row and candidate, whose scores are zero."""
    b = jax.tree.leaves(filter_.rows[side])[0].shape[0]
    k = jax.tree.leaves(filter_.candidates[pool])[0].shape[0]
    return filter_.excludes(filter_.rows[side], filter_.candidates[pool], jnp.zeros((b, k))).tolist()


def value_of(loss: InfoNCE, inputs: Inputs, progress: float = 0.0) -> float:
    return float(loss(view(Case(loss, lambda _: None, progress=progress), inputs)).mean())


def test_equal_texts_are_left_out_whatever_their_side() -> None:
    """Rows (1, 5) and (2, 6); a hard negative 1 is the first row's query, another 6 the second row's document."""
    filter_ = same_text(jnp.array([1, 2]), jnp.array([5, 6, 1, 6]), jnp.array([0, 1]))
    documents = [[True, False, True, False], [False, True, False, True]]
    queries = [[True, False], [False, True]]
    assert left_out(filter_, "queries", "documents") == left_out(filter_, "documents", "documents") == documents
    assert left_out(filter_, "queries", "queries") == left_out(filter_, "documents", "queries") == queries


def test_the_own_pair_stays_whatever_a_filter_says() -> None:
    """Only the own document is left, so the loss is 0; the second row has one true negative, of score 0."""
    filter_ = same_text(jnp.array([1, 2]), jnp.array([5, 6, 5]), jnp.array([0, 1]))
    vectors = jnp.eye(3)
    out = info_nce(vectors[:2], vectors, jnp.array([0, 1]), temperature=1.0, false_negatives=[filter_])
    np.testing.assert_allclose(out, [np.log(1 + E(-1)), np.log(1 + 2 * E(-1))], rtol=1e-6)


def on_circle(*cosines: float) -> jax.Array:
    """Vectors in the plane with these cosines to (1, 0), each to the left of it."""
    return jnp.array([[c, (1 - c * c) ** 0.5] for c in cosines])


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (Limit(), [True, True, False]),  # own pair 0.5
        (Limit(-0.2), [True, False, False]),
        (Limit(0.2), [True, True, True]),
        (Limit(0.2, "relative"), [True, True, False]),
        (Limit(0.3, "relative"), [True, True, True]),
        (Limit(active=False), [False, False, False]),
        (Limit(2.0, active=False), [False, False, False]),
    ],
)
def test_margins_by_hand(limit: Limit, expected: list[bool]) -> None:
    query, documents = jnp.array([[3.0, 0.0]]), on_circle(0.5, 0.9, 0.6, 0.39)
    assert left_out(guided(query, documents, jnp.array([0]), limit=limit), "queries", "documents")[0][1:] == expected


def test_a_relative_margin_below_zero_still_lowers_the_threshold() -> None:
    """Of a pair at cosine -0.5, half is left: the threshold is -0.75, not -0.25."""
    query, documents = jnp.array([[1.0, 0.0]]), on_circle(-0.5, -0.6, -0.8)
    filter_ = guided(query, documents, jnp.array([0]), limit=Limit(0.5, "relative"))
    assert left_out(filter_, "queries", "documents")[0][1:] == [True, False]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_guide_that_finds_all_texts_equal_excludes_nothing(seed: int) -> None:
    """Equal cosines are not above each other, in whichever way their digits were rounded."""
    random = np.random.default_rng(seed)
    q, d = (jnp.float32(np.tile(random.standard_normal((1, 384)), (n, 1))) for n in (5, 9))
    filter_ = guided(q, d, jnp.arange(5), limit=Limit())
    assert not np.any(left_out(filter_, "queries", "documents"))


def test_a_guide_passes_no_gradient() -> None:
    inputs = plain(negatives=1)
    q, d = jnp.asarray(inputs.student.queries), jnp.asarray(inputs.student.documents[:, 0])

    def loss(guide: jax.Array) -> jax.Array:
        filter_ = guided(guide, d, jnp.arange(16), limit=Limit(0.1))
        return info_nce(q, d, jnp.arange(16), temperature=0.1, false_negatives=[filter_]).sum()

    assert not jax.jit(jax.grad(loss))(q).any()


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_student_guides_by_cosine_however_it_is_scored(similarity: str) -> None:
    """By its own scores or by its vectors: as if its vectors were a teacher's."""
    inputs = plain(negatives=1)
    options = {"similarity": similarity, "directions": ALL, "temperature": 1.0}
    by_student = InfoNCE(false_negatives=StudentFilter(margin=0.1), **options)
    by_teacher = InfoNCE(false_negatives=TeacherFilter(margin=0.1), teacher=TEACHER, **options)
    taught = inputs._replace(teachers={TEACHER: inputs.student})
    assert value_of(by_student, inputs) == pytest.approx(value_of(by_teacher, taught), rel=1e-6)
    assert value_of(by_student, inputs) != pytest.approx(value_of(InfoNCE(**options), inputs), rel=1e-3)


def test_schedules_of_the_student() -> None:
    inputs = plain(negatives=1)

    def at(margin: Any, progress: float, begin: float = 0.0) -> float:
        return value_of(InfoNCE(false_negatives=StudentFilter(margin=margin, begin=begin)), inputs, progress)

    never = value_of(InfoNCE(), inputs)
    falling = Ramp(start=0.8, stop=0.0, end=0.5)
    assert at(falling, 0.0) == at(0.8, 0.0) != at(falling, 0.25) == at(0.4, 0.0)
    assert at(falling, 0.5) == at(falling, 0.9) == at(0.0, 0.0) != never
    assert at(0.1, 0.19, begin=0.2) == never != at(0.1, 0.2, begin=0.2) == at(0.1, 0.0)
    assert at(Ramp(start=-2.0, stop=0.1), 0.0) == never


def test_all_negatives_left_out_is_a_loss_of_zero_without_gradient() -> None:
    inputs = INPUTS["one text throughout"]
    loss = InfoNCE(false_negatives=TextFilter())
    seen = view(Case(loss, lambda _: None), inputs)

    def mean(queries: jax.Array) -> jax.Array:
        return loss(seen._replace(student=seen.student._replace(queries=queries))).mean()

    value, gradient = jax.jit(jax.value_and_grad(mean))(seen.student.queries)
    assert float(value) == 0
    assert not gradient.any()


@pytest.mark.parity
@pytest.mark.parametrize("margin", [0.0, 0.1])
@pytest.mark.parametrize("strategy", ["absolute", "relative"])
def test_gist_with_all_its_contrasts(strategy: str, margin: float) -> None:
    """contrast_anchors is q2q and contrast_positives d2d, where there are no hard negatives."""
    import torch
    from sentence_transformers.sentence_transformer.losses import CachedGISTEmbedLoss

    inputs = INPUTS["random"]
    theirs = SimpleNamespace(
        similarity_fct=torch.nn.CosineSimilarity(dim=-1),
        temperature=0.05,
        margin_strategy=strategy,
        margin=margin,
        contrast_anchors=True,
        contrast_positives=True,
        gather_across_devices=False,
        mini_batch_size=5,
        show_progress_bar=False,
        cross_entropy_loss=torch.nn.CrossEntropyLoss(),
    )
    theirs.sim_matrix = lambda a, b: CachedGISTEmbedLoss.sim_matrix(theirs, a, b)
    columns = [
        [[torch.tensor(np.float64(x))] for x in (side.queries, side.documents[:, 0])]
        for side in (inputs.student, inputs.teachers[TEACHER])
    ]
    expected = CachedGISTEmbedLoss.calculate_loss(theirs, *columns).item()
    loss = InfoNCE(
        false_negatives=TeacherFilter(margin=margin, strategy=strategy),
        directions=("q2d", "q2q", "d2d"),
        teacher=TEACHER,
    )
    assert value_of(loss, inputs) == pytest.approx(expected, rel=1e-5)


class Losses(Config):
    losses: dict[str, Loss]


def test_one_filter_or_a_list_in_yaml(tmp_path) -> None:
    head = "losses:\n  contrast:\n    kind: info_nce\n    false_negatives: "
    parsed = []
    for i, text in enumerate(("{by: text_hash}", "[{by: text_hash}, {by: student, margin: {start: 1, stop: 0.1}}]")):
        path = tmp_path / f"{i}.yaml"
        path.write_text(head + text)
        parsed.append(load_config(Losses, path).losses["contrast"].false_negatives)
    assert parsed == [(TextFilter(),), (TextFilter(), StudentFilter(margin=Ramp(start=1, stop=0.1)))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{by: techer}", r"losses.contrast.false_negatives.0: unknown by 'techer'. Did you mean 'teacher'\?"),
        (
            "{margin: 1}",
            "false_negatives.0: has no 'by'. Expected one of: student, teacher, text_hash.",
        ),
        ("[{by: student, margn: 1}]", r"false_negatives.0.margn: unknown key. Did you mean 'margin'\?"),
    ],
)
def test_errors_name_the_place(tmp_path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text("losses: {contrast: {kind: info_nce, false_negatives: " + text + "}}")
    with pytest.raises(UserError, match=message):
        load_config(Losses, tmp_path / "x.yaml")
