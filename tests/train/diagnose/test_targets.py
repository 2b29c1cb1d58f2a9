"""What is wrong with a first batch is said, and only that."""

import re
from typing import Any, Literal

import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.losses import EmbedCosine, LossConfig
from jdistill.losses.base import Needs
from jdistill.train.diagnose.targets import FEWEST, check_targets, neighbour_ranks
from jdistill.types import Batch, PairEmbeddings, Tokens
from tests.train.tiny_run import run, tiny_loader

TERMS: dict[str, LossConfig] = {"align": EmbedCosine(teacher="big")}
TOPICS, TOPIC_WORDS, COMMON_WORDS = 12, 25, 60


class Picky(LossConfig):
    """Says what it was shown."""

    kind: Literal["picky"] = "picky"

    def needs(self) -> Needs:
        return Needs(teacher=True)

    def check_targets(self, teacher: Any, scores: Any) -> list[str]:
        return [f"{teacher.queries.shape} {teacher.documents.shape} {None if scores is None else scores.shape}"]


def texts(rng: np.random.Generator, n: int) -> tuple[Tokens, np.ndarray]:
    """Texts of 8 to 20 words, about a third of them of the text's topic, between two special tokens; and topics."""
    topics = rng.integers(0, TOPICS, n)
    ids = np.zeros((n, 22), np.int32)
    lengths = rng.integers(8, 21, n)
    for row, topic, length in zip(ids, topics, lengths, strict=True):
        own = 100 + topic * TOPIC_WORDS + rng.integers(0, TOPIC_WORDS, length)
        row[1 : 1 + length] = np.where(rng.random(length) < 0.35, own, 10 + rng.integers(0, COMMON_WORDS, length))
        row[0], row[1 + length] = 1, 2
    return Tokens(ids, ids > 0), topics


def vectors(rng: np.random.Generator, topics: np.ndarray, width: int = 24) -> np.ndarray:
    """Near the vector of the topic, as a teacher's are."""
    centres = np.random.default_rng(1).normal(size=(TOPICS, width))
    return (centres[topics] + 0.7 * rng.normal(size=(len(topics), width))).astype(np.float32)


def batch(seed: int = 0, n: int = 64, *, change: Any = lambda x: x, columns: int = 1) -> Batch:
    """A batch of such texts; `change` is done to the teacher's vectors of each column."""
    rng = np.random.default_rng(seed)
    queries, topics = texts(rng, n)
    parts = [texts(rng, n) for _ in range(columns)]
    ids, mask = (np.stack([part[0][i] for part in parts], axis=1) for i in range(2))
    documents = np.stack([change(vectors(rng, part[1])) for part in parts], axis=1)
    numbers = np.arange(n * (1 + columns), dtype=np.int32).reshape(n, -1)
    target = PairEmbeddings(change(vectors(rng, topics)), documents)
    return Batch(queries, Tokens(ids, mask), {"big": target}, None, numbers[:, 0], numbers[:, 1:])


def test_a_batch_that_is_well_says_nothing():
    assert check_targets(TERMS, batch(columns=3)) == []


@pytest.mark.parametrize("change", [lambda x: np.roll(x, 1, axis=0), np.random.default_rng(0).permutation])
def test_vectors_of_other_texts_are_noticed(change):
    (line,) = check_targets(TERMS, batch(n=256, change=change, columns=2))
    assert line.startswith("losses.align: teacher 'big': its vectors do not seem to belong to their texts")
    assert "queries" in line
    assert "negatives 1" in line


def test_false_alarms_and_misses_are_rare():
    false = missed = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens, topics = texts(rng, FEWEST)
        good = vectors(rng, topics)
        threshold = 0.5 + 2 / np.sqrt(12 * FEWEST)
        false += neighbour_ranks(tokens, good).mean() < threshold
        missed += neighbour_ranks(tokens, np.roll(good, 1, axis=0)).mean() >= threshold
    assert false == 0
    assert missed <= 20


def test_few_texts_and_texts_without_common_words_are_not_judged():
    assert check_targets(TERMS, batch(n=FEWEST - 1, change=lambda x: np.roll(x, 1, axis=0))) == []
    alone = batch(n=64)
    ids = np.arange(64 * 4, dtype=np.int32).reshape(64, 4) + 5
    ids[:, 0] = 1
    tokens = Tokens(ids, ids > 0)
    assert len(neighbour_ranks(tokens, alone.targets["big"].queries)) == 0


def test_equal_texts_do_not_vouch_for_each_other():
    whole = batch(n=128, change=lambda x: np.roll(x, 1, axis=0))

    def twice(x: Any) -> Any:
        return None if x is None else np.concatenate([x, x])

    doubled = Batch(
        Tokens(*map(twice, whole.queries)),
        Tokens(*map(twice, whole.documents)),
        {"big": PairEmbeddings(*map(twice, whole.targets["big"]))},
        *map(twice, whole[3:]),
    )
    assert len(check_targets(TERMS, doubled)) == 1


def test_ranks_by_hand():
    """The first two texts share their rare word; of the two others, one is nearer to the first by its vector."""
    ids = np.array([[1, 7, 8], [1, 7, 9], [1, 10, 11], [1, 12, 13]])
    angles = np.array([0.0, 0.5, 0.3, 2.0])
    found = neighbour_ranks(Tokens(ids, ids > 0), np.stack([np.cos(angles), np.sin(angles)], axis=1))
    np.testing.assert_array_equal(found, [0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (np.zeros_like, "all vectors of the first batch's queries and documents are zero"),
        (lambda x: np.ones_like(x) + 1e-3 * x, "queries and documents are nearly equal .* pooling, prompts"),
    ],
)
def test_vectors_that_say_nothing_are_noticed_once(change, message):
    terms = TERMS | {"again": EmbedCosine(teacher="big")}
    (line,) = check_targets(terms, batch(change=change))
    assert line.startswith("losses.align, losses.again: teacher 'big': ")
    assert re.search(message, line)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_no_numbers_are_refused(value):
    def change(x: np.ndarray) -> np.ndarray:
        x[3, 0] = value
        return x

    with pytest.raises(UserError, match=r"losses.align: teacher 'big': 1 of 64 .* queries contain NaN .*big.precision"):
        check_targets(TERMS, batch(change=change))


def test_terms_look_at_their_targets_themselves():
    one = batch(n=1100, columns=2)
    scored = one._replace(targets=one.targets | {"small": one.targets["big"]}, scores=np.zeros((1100, 2), np.float32))
    terms: dict[str, LossConfig] = {"a": Picky(teacher=("big", "small"))}
    assert check_targets(terms, scored) == ["losses.a: (1024, 48) (1024, 2, 48) (1024, 2)"]


def test_a_run_on_vectors_of_no_number_does_not_start(tmp_path, student):
    loader = tiny_loader()
    batch_of = loader.batch

    def poisoned(step: int, host: tuple[int, int] = (0, 1)) -> Any:
        found = batch_of(step, host)
        found.targets["big"].documents[0] = np.nan
        return found

    loader.batch = poisoned
    with pytest.raises(UserError, match="contain NaN or infinity"):
        run(tmp_path, student, loader=loader)
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())
