"""Store, loader, student, losses and loop together: texts on disk are learned, by a real store and a real student."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jdistill.loader import Loader, LoaderConfig
from jdistill.losses import EmbedCosine
from jdistill.parallel import make_mesh
from jdistill.store import Store, token_table, write_texts
from jdistill.student import StudentConfig, make_student
from jdistill.train import Run, TrainConfig, train
from tests.store.conftest import Row, embed
from tests.tiny import WORDS, tiny_static_folder


def rows(count: int) -> list[Row]:
    rng = np.random.default_rng(0)

    def text(longest: int) -> str:
        return " ".join(rng.choice(WORDS[:40], rng.integers(1, longest)))

    return [Row(text(6), text(20), (text(20),), i / count) for i in range(count)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("river") / "store"
    write_texts(path, [("pairs", "train", rows(80))], fingerprint={})
    store = Store.open(path)
    embed(store, "big")
    return store


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    source = tiny_static_folder(tmp_path_factory.mktemp("static"), width=8, normalize=True)
    return make_student(StudentConfig(init=str(source)), teacher_widths={"big": 6}, key=jax.random.key(0))


def make_loader(store: Store, student: Any, **options: Any) -> Loader:
    table = store.rows("train")
    tables = {
        side: token_table(
            store.path, store.texts, tokenizer=student[0].tokenizer, prompt=prompt, max_length=12, ids=ids
        )
        for side, prompt, ids in (("query", "a ", table.queries), ("document", "", table.documents))
    }
    return Loader(
        LoaderConfig.model_validate({"shapes": 2, **options}),
        rows=table,
        queries=tables["query"],
        documents=tables["document"],
        teachers={"big": store.teacher("big")},
        global_batch_size=16,
        seed=0,
    )


def test_batch_is_what_the_tokenizer_and_the_teacher_say(store: Store, student: Any) -> None:
    loader = make_loader(store, student)
    for step in (0, 4):
        batch = loader.batch(step)
        texts = store.texts.take(batch.document_ids.reshape(-1))
        encoded = student[0].tokenizer.encode(texts, 12)
        ids = batch.documents.ids.reshape(len(texts), -1)
        mask = batch.documents.mask.reshape(len(texts), -1)
        assert [row[keep].tolist() for row, keep in zip(ids, mask, strict=True)] == encoded
        teacher = store.teacher("big")
        np.testing.assert_array_equal(batch.targets["big"].queries, teacher.take(batch.query_ids, "query"))
        assert batch.targets["big"].documents.dtype == np.float32
        assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(batch)), "no memmap leaves the loader"


def test_a_student_learns_its_teacher(store: Store, student: Any, tmp_path: Path) -> None:
    losses: list[float] = []
    config = TrainConfig.model_validate(
        {"epochs": 12, "global_batch_size": 16, "log_every": 5, "optimizer": {"peak_lr": 0.05}}
    )
    run = Run(
        config=config,
        student=student[0],
        terms={"align": EmbedCosine(teacher="big")},
        loader=make_loader(store, student),
        evaluate=lambda params: {"weight": float(np.linalg.norm(params["encoder"]["words"]))},
        folder=tmp_path,
        recipe={"name": "river"},
        mesh=make_mesh(jax.devices()[:2]),
        seed=0,
    )
    result = train(run, student[1])
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        losses += [value for key, value in json.loads(line).items() if key == "train/loss/align"]
    assert result.step == 60
    assert np.mean(losses[-4:]) < 0.75 * losses[0]
