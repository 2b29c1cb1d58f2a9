"""`student.backbone: cached`: the same training as with a frozen encoder, which runs once for each text."""

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jdistill.checkpoint import load_student_params
from jdistill.config import UserError, parse
from jdistill.loader import Loader, LoaderConfig
from jdistill.losses import EmbedCosine, LossConfig
from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.recipe import Recipe
from jdistill.store import HiddenTable, HiddenWriter, Store, TokenTable, token_table
from jdistill.student import Student
from jdistill.train import hidden_cache
from jdistill.train.groups import frozen_paths
from jdistill.train.hidden_cache import hidden_table
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step
from jdistill.types import Tokens
from jdistill.verbs import train
from jdistill.verbs.train import make_loader, make_run_student, open_store
from tests.loader.fakes import FakeRows, FakeTeacher
from tests.train.test_loop import assert_same
from tests.train.tiny_run import adamw
from tests.verbs.conftest import Job

POOLING = [{"kind": "activation", "bias": False}]
"""Something to learn. A bias would start with a gradient of nothing but rounding, which Adam makes as large as any."""
DENSE = {"pooling": ["mean", "cls"], "head": [{"kind": "dense", "out_features": 24}]}


def recipe(job: Job, run: Path, **student: Any) -> Recipe:
    changes = {"run": str(run), "evaluate": {}, "fidelity": None, "student": job.content["student"] | student}
    content = job.content | changes
    content["train"] = job.content["train"] | {"evaluate_every": 100, "save_every": 100}
    return parse(Recipe, content, where="x.yaml")


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["train/loss"] for line in lines if "train/loss" in line]


def test_training_is_that_of_a_frozen_encoder(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {b: recipe(job, tmp_path / b, backbone=b, pooling=POOLING) for b in ("frozen", "cached")}
    frozen, cached = (train(each) for each in made.values())
    found, expected = losses(tmp_path / "cached"), losses(tmp_path / "frozen")
    assert len({*found}) == len(found) == 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert_same(cached.params["encoder"], frozen.params["encoder"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), cached.params, frozen.params)
    assert_same(load_student_params(tmp_path / "cached"), cached.params)

    store = open_store(made["cached"])
    student, start = make_run_student(made["cached"], store)
    kernels = (params["pooling"]["0"]["linear"]["kernel"] for params in (cached.params, start))
    assert np.abs(np.subtract(*kernels)).max() > 1e-4
    monkeypatch.setattr(hidden_cache, "_hidden", None)  # a second run finds what the first has computed
    batch = make_loader(made["cached"], store, student, start).batch(0)
    assert batch.documents.hidden is not None


def test_plain_texts_and_a_head(job: Job, tmp_path: Path) -> None:
    student, params, tokens = opened(job, tmp_path, **DENSE)
    table = hidden_table(tmp_path, student, params, tokens, title="x")
    texts = np.flatnonzero(tokens.lengths).astype(np.int32)
    terms: dict[str, LossConfig] = {"align": EmbedCosine(teacher="big")}
    optimizer, groups = adamw(10, warmup=0, frozen=frozen_paths(student))
    mesh = make_mesh(jax.devices()[:2])
    states = []
    known: dict[Any, HiddenTable] = {"document": table}
    for hidden in (None, known):
        loader = Loader(
            LoaderConfig(shapes=1),
            rows=FakeRows(None, texts.reshape(-1, 2)),
            queries=None,
            documents=tokens,
            teachers={"big": FakeTeacher(int(texts.max()) + 1, width=32)},
            global_batch_size=8,
            seed=0,
            hidden=hidden,
        )
        step: Any = make_train_step(student, terms, optimizer, groups, mesh, seed=0, total_steps=10, microbatches=2)
        state = make_state(params, terms, optimizer, groups)
        state = jax.device_put(state, state_sharding(state, mesh))
        for i in range(3):
            state, _ = step(state, jax.device_put(loader.batch(i), row_sharding(mesh)))
        states.append(jax.device_get(state))
    frozen, cached = states
    kernel = cached.params["student"]["head"]["0"]["kernel"]
    assert np.abs(kernel - params["head"]["0"]["kernel"]).max() > 1e-4
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), cached, frozen)


def opened(job: Job, folder: Path, **student: Any) -> tuple[Student, dict[str, Any], TokenTable]:
    """A student that has no cache yet, and the tokens of the documents."""
    made = recipe(job, folder, backbone="cached", **{"pooling": POOLING, **student})
    store = Store.open(made.store)
    learner, params = make_run_student(made, store)
    ids = store.rows("train").documents
    tokens = token_table(store.path, store.texts, tokenizer=learner.tokenizer, prompt="", max_length=64, ids=ids)
    return learner, params, tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_table_holds_what_the_encoder_gives(job: Job, tmp_path: Path, dtype: str) -> None:
    student, params, tokens = opened(job, tmp_path, dtype=dtype)
    table: HiddenTable = pickle.loads(pickle.dumps(hidden_table(tmp_path, student, params, tokens, title="x")))
    texts = np.flatnonzero(tokens.lengths)[[[5, 0, 3], [30, 31, 47]]]
    found = table.pad(texts, 40)
    assert found.shape == (2, 3, 40, 32)
    assert found.dtype == (np.float32 if dtype == "float32" else ml_dtypes.bfloat16)
    ids, mask = tokens.pad(texts.reshape(-1), 40)
    whole = Tokens(jnp.asarray(ids), jnp.asarray(mask))
    expected = np.asarray(jax.jit(student.hidden_states)(params, whole), np.float32)
    assert not found[~mask.reshape(2, 3, 40)].any()
    tolerance = (
        1e-5 if dtype == "float32" else 0.04
    )  # bfloat16 has 8 bits, and programs of other shapes round elsewhere
    values = found.reshape(6, 40, 32).astype(np.float32)
    np.testing.assert_allclose(values[mask], expected[mask], rtol=tolerance, atol=tolerance)
    with pytest.raises(ValueError, match="does not fit into 3"):
        table.pad(texts, 3)


def test_another_weight_is_another_cache(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, params, tokens = opened(job, tmp_path)
    first = hidden_table(tmp_path, student, params, tokens, title="x")
    changed = {**params, "encoder": jax.tree.map(lambda x: x, params["encoder"])}
    norm = changed["encoder"]["layers"]["0"]["output_norm"]
    norm["bias"] = norm["bias"].at[3].add(1.0)
    second = hidden_table(tmp_path, student, changed, tokens, title="x")
    assert second.fingerprint != first.fingerprint
    text = np.flatnonzero(tokens.lengths)[:1]
    moved = (second.pad(text, 40) - first.pad(text, 40))[0, : tokens.lengths[text[0]]]
    np.testing.assert_allclose(moved, np.broadcast_to(np.arange(32) == 3, moved.shape), atol=1e-5)
    monkeypatch.setattr(hidden_cache, "_hidden", None)
    assert hidden_table(tmp_path, student, params, tokens, title="x").fingerprint == first.fingerprint


def test_what_a_killed_process_computed_is_kept(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, params, tokens = opened(job, tmp_path)
    whole = hidden_table(tmp_path / "whole", student, params, tokens, title="x")
    monkeypatch.setattr(hidden_cache, "HiddenWriter", partial(HiddenWriter, shard_bytes=100 * 32 * 4))
    write = HiddenWriter.write

    def killed(self: HiddenWriter, shard: int, hidden: np.ndarray) -> None:
        if shard == 2:  # its values are on disk, the file that makes them count is not
            np.save(self.folder / "shards" / "00002.npy", hidden[:5])
            raise KeyboardInterrupt
        write(self, shard, hidden)

    monkeypatch.setattr(HiddenWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        hidden_table(tmp_path, student, params, tokens, title="x")
    (shards,) = tmp_path.glob("hidden/*/shards")
    assert not (shards.parent / "manifest.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert {*before} == {"00000.npy", "00000.json", "00001.npy", "00001.json", "00002.npy"}

    monkeypatch.setattr(HiddenWriter, "write", write)
    found = hidden_table(tmp_path, student, params, tokens, title="x")
    after = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    assert {name for name in before if before[name] == after[name]} == {*before} - {"00002.npy"}
    assert len(after) > 6
    texts = np.flatnonzero(tokens.lengths)
    np.testing.assert_allclose(found.pad(texts, 40), whole.pad(texts, 40), atol=1e-5)


def test_a_full_disk_is_reported_before_anything_is_computed(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, params, tokens = opened(job, tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"hidden states of 48 texts need 0\.0 GB more, but the disk has 0\.0 GB left"):
        hidden_table(tmp_path, student, params, tokens, title="x")


def test_a_store_of_another_encoder_gives_other_batches(job: Job, tmp_path: Path) -> None:
    """So that a run does not go on with hidden states that its head has never seen."""
    made = recipe(job, tmp_path, backbone="cached", pooling=POOLING)
    store = open_store(made)
    student, params = make_run_student(made, store)
    changed = {**params, "encoder": jax.tree.map(lambda x: x * 1.01, params["encoder"])}
    first, other = (make_loader(made, store, student, values) for values in (params, changed))
    assert first.fingerprint != other.fingerprint
    batch = first.batch(0)
    assert batch.queries is not None
    assert batch.queries.hidden is not None
    assert batch.queries.hidden.shape == (*batch.queries.ids.shape, 32)
    assert batch.documents.hidden is not None
    assert batch.documents.hidden.shape == (*batch.documents.ids.shape, 32)
    assert make_loader(made, store, student).batch(0).documents.hidden is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "packing": (
        {"loader": {"packing": 64}},
        r"loader\.packing=64: has no benefit with student\.backbone 'cached'.*Remove it",
    ),
    "folding": ({"loader": {"folding": True}}, r"loader\.folding=true: has no benefit with student\.backbone 'cached'"),
    "layers": ({"losses": {"a": {"kind": "hidden", "layer": 1}}}, r"losses\.a: 'hidden' reads earlier layers"),
    "dropout": ({"student": {"dropout": 0.1}}, r"'backbone: cached' computes .* with dropout=0\.1 they change"),
    "lora": ({"student": {"lora": {}}}, r"'backbone: cached' computes .* with lora they change"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_needs_the_encoder_is_refused(job: Job, case: str) -> None:
    changes, message = REFUSED[case]
    student = job.content["student"] | {"backbone": "cached"} | changes.get("student", {})
    with pytest.raises(UserError, match=message):
        parse(Recipe, job.content | changes | {"student": student}, where="x.yaml")


def test_with_nothing_to_train_nothing_is_computed(job: Job, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to train"):
        train(recipe(job, tmp_path, backbone="cached", init=str(job.folder / "teacher"), keep_layers=[0, 1]))


def test_hidden_states_of_earlier_layers_are_not_known(job: Job, tmp_path: Path) -> None:
    student, params, tokens = opened(job, tmp_path)
    ids, mask = tokens.pad(np.flatnonzero(tokens.lengths)[:2], 40)
    known = Tokens(jnp.asarray(ids), jnp.asarray(mask), hidden=jnp.zeros((2, 40, 32)))
    with pytest.raises(ValueError, match=r"got layers \(0, 1\)"):
        student.encode_layers(params, known, (0, 1))
