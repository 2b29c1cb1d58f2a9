"""Adafactor, Lion and Muon: equal to plain optax, alike on one and on eight devices, and resumed bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jdistill.config import UserError, parse
from jdistill.student import StudentConfig, make_student
from jdistill.train import TrainConfig
from jdistill.train.groups import Groups, decays, path_of
from jdistill.train.optimizer import Adafactor, AdamW, Lion, Muon, OptimizerConfig, make_optimizer
from jdistill.train.schedule import Cosine, make_schedule
from tests.tiny import VOCABULARY, tiny_bert_folder
from tests.train.test_loop import KilledError, assert_same, killed_at, state_of
from tests.train.test_optimizer import updated
from tests.train.tiny_run import run

KINDS: dict[str, dict[str, Any]] = {
    "adamw": {"peak_lr": 1e-3, "eps": 1e-5},
    "adafactor": {"peak_lr": 1e-2, "factor_from": 8},
    "lion": {"peak_lr": 1e-3},
    "muon": {"peak_lr": 1e-3, "eps": 1e-5},
}
SCHEDULE = Cosine(warmup=0.3)
WORDS = (*VOCABULARY, *(f"word{i}" for i in range(4160 - len(VOCABULARY))))
"""So many that the table, 16 wide, is large enough to be split."""


def layers() -> Any:
    """A matrix that Adafactor keeps by row and column and Muon orthogonalizes, and parameters that neither does."""
    rng = np.random.default_rng(0)
    encoder = {
        "words": rng.normal(size=(12, 8)),
        "0": {"kernel": rng.normal(size=(8, 16)), "bias": rng.normal(size=16)},
    }
    params = {"student": {"encoder": encoder}, "losses": {"contrast": {"temperature": np.array(0.5)}}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def rate(config: OptimizerConfig, scale: float = 1.0) -> optax.Schedule:
    schedule = make_schedule(SCHEDULE, config.peak_lr, 10)
    return lambda step: scale * schedule(step)


def plain(config: OptimizerConfig, mask: Any, decay: float = 0.1, scale: float = 1.0) -> optax.GradientTransformation:
    """The same as optax itself writes it."""
    lr = rate(config, scale)
    if isinstance(config, Lion):
        return optax.lion(lr, 0.9, 0.99, weight_decay=decay, mask=mask)
    if isinstance(config, Adafactor):  # optax's decay is not multiplied by the learning rate
        adafactor = optax.adafactor(lr, min_dim_size_to_factor=8)
        decayed = optax.chain(optax.add_decayed_weights(decay, mask), optax.scale_by_learning_rate(lr))
        return _sum(adafactor, decayed)
    if isinstance(config, Muon):
        numbers = optax.contrib.MuonDimensionNumbers(0, 1)

        def dimensions(params: Any) -> Any:
            return jax.tree.map_with_path(lambda path, _: numbers if "kernel" in str(path) else None, params)

        muon: Any = optax.contrib.muon
        decayed = optax.chain(optax.add_decayed_weights(decay, mask), optax.scale_by_learning_rate(lr))
        return _sum(muon(lr, eps=1e-5, consistent_rms=0.2, muon_weight_dimension_numbers=dimensions), decayed)
    return optax.adamw(lr, eps=1e-5, weight_decay=decay, mask=mask)


def _sum(first: optax.GradientTransformation, decay: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimizer, and beside it a decay of its own."""

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        one, state_1 = first.update(gradients, state[0], params)
        two, state_2 = decay.update(jax.tree.map(jnp.zeros_like, gradients), state[1], params)
        return jax.tree.map(jnp.add, one, two), (state_1, state_2)

    return optax.GradientTransformation(lambda params: (first.init(params), decay.init(params)), update)


def made(kind: str, **options: Any) -> tuple[Any, optax.GradientTransformation, Groups]:
    content = {"optimizer": {"kind": kind, **KINDS[kind], "weight_decay": 0.1, **options}, "steps": 10}
    config = parse(TrainConfig, content, where="x.yaml").optimizer
    groups = Groups(config.groups, config.weight_decay)
    return config, make_optimizer(config, SCHEDULE, 10, groups), groups


def assert_close(a: Any, b: Any) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_optax(kind: str, clip: float | None) -> None:
    config, optimizer, _ = made(kind, clip_norm=clip)
    params = layers()
    clipped = optax.identity() if clip is None else optax.clip_by_global_norm(clip)
    theirs = optax.chain(clipped, plain(config, decays(params)))
    with jax.numpy_dtype_promotion("standard"):
        expected = updated(theirs, params, 10)
    found = updated(optimizer, params, 10)
    assert_close(found, expected)
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(*map(jax.tree.leaves, (found, params)), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_equal_optimizers_of_their_own(kind: str) -> None:
    """What a group's parameters become is what optax makes of them with that group's learning rate and decay."""
    rules = [{"match": ".*/words", "lr_scale": 0.25, "weight_decay": 0.3}, {"match": ".*"}]
    config, optimizer, groups = made(kind, groups=rules, clip_norm=None)
    params = layers()
    labels = groups.labels(params)
    assert groups.kinds[labels["student"]["encoder"]["words"]] == (0.25, 0.3)
    found = updated(optimizer, params, 6)
    with jax.numpy_dtype_promotion("standard"):
        words = updated(plain(config, decays(params), decay=0.3, scale=0.25), params, 6)
        rest = updated(plain(config, decays(params)), params, 6)
    rest["student"]["encoder"]["words"] = words["student"]["encoder"]["words"]
    assert_close(found, rest)


def test_adafactor_keeps_large_arrays_by_row_and_column() -> None:
    _, optimizer, _ = made("adafactor")
    sizes = [x.size for x in jax.tree.leaves(optimizer.init(layers()))]
    _, adamw, _ = made("adamw")
    assert max(sizes) == 16 < sum(sizes) < 0.2 * sum(x.size for x in jax.tree.leaves(adamw.init(layers())))


def test_muon_without_a_matrix_is_refused() -> None:
    _, optimizer, _ = made("muon", matrices="student/head/.*")
    with pytest.raises(UserError, match=r"optimizer\.matrices: 'student/head/\.\*' matches no .*kind: adamw"):
        optimizer.init(layers())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schedule": "cosine", "warmup": 5}, r"schedule: \{kind: cosine, warmup: 5\}"),
        ({"warmup": 0.2}, r"train\.schedule: \{kind: linear, warmup: 0\.2\}"),
        ({"kind": "lion", "schedule": "constant"}, r"train\.schedule: \{kind: constant\}"),
        ({"kind": "lyon"}, "Did you mean 'lion'"),
        ({"kind": "lion", "eps": 1}, "optimizer.eps: unknown key"),
    ],
)
def test_earlier_keys_are_refused_with_the_new_ones(content: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(TrainConfig, {"steps": 1, "optimizer": content}, where="x.yaml")


def test_a_kind_may_be_left_out() -> None:
    config = parse(TrainConfig, {"steps": 1, "optimizer": {"peak_lr": 0.1}, "schedule": {"warmup": 3}}, where="x.yaml")
    assert (config.optimizer, config.schedule.kind, config.schedule.warmup) == (AdamW(peak_lr=0.1), "linear", 3)
    assert parse(TrainConfig, config.model_dump(mode="json"), where="x.yaml") == config


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = Path(tmp_path_factory.mktemp("bert"))
    tiny_bert_folder(folder, hidden=16, layers=1, vocab=WORDS)
    return make_student(StudentConfig(init=str(folder), dropout=0.1), teacher_widths={"big": 6}, key=jax.random.key(0))


def options(kind: str) -> dict[str, Any]:
    shared = {"steps": 6, "save_every": 3, "evaluate_every": None, "schedule": {"warmup": 1}, "evaluate": None}
    return {"optimizer": {"kind": kind, **KINDS[kind]}, **shared}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_train_as_one_and_resume(kind: str, tmp_path: Path, bert: Any) -> None:
    """Parameters and state split over four of eight devices; killed, and gone on with, bit for bit."""
    one, split, killed = tmp_path / "one", tmp_path / "split", tmp_path / "killed"
    whole = run(one, bert, devices=1, **options(kind))
    found = run(split, bert, devices=8, fsdp=4, **options(kind))
    with pytest.raises(KilledError):
        run(killed, bert, devices=8, fsdp=4, loader=killed_at(4), **options(kind))
    resumed = run(killed, bert, devices=8, fsdp=4, **options(kind))
    assert_same(resumed.params, found.params)
    assert_same(state_of(killed, 6), state_of(split, 6))
    for (path, a), b in zip(jax.tree.leaves_with_path(found.params), jax.tree.leaves(whole.params), strict=True):
        if "key/bias" not in path_of(path):  # softmax does not depend on it: its gradient is rounding, of which a sign
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)  # or a share makes whole steps
    assert any(np.abs(a - b).max() > 1e-4 for a, b in zip(*map(jax.tree.leaves, (whole.params, bert[1])), strict=True))
    shutil.rmtree(tmp_path)
