"""AdamW against torch, schedules against transformers' formulas, and decay rules that cover everything."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill.train.groups import Groups, decays
from jdistill.train.optimizer import AdamW, OptimizerConfig, make_optimizer
from jdistill.train.schedule import Constant, Cosine, Linear, ScheduleConfig, WarmupStableDecay, make_schedule


def tiny_params() -> Any:
    rng = np.random.default_rng(0)
    student = {"layer": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}, "norm": {"scale": np.ones(3)}}
    params = {"student": student, "losses": {"contrast": {"temperature": np.array(0.5)}}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def gradient_of(step: int, like: Any) -> Any:
    """Gradients that are clipped in some steps and not in others."""
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.15 * (1 + step % 3), jnp.float32), like)


def made(config: OptimizerConfig, schedule: ScheduleConfig, steps: int) -> tuple[optax.GradientTransformation, Groups]:
    groups = Groups(config.groups, config.weight_decay)
    return make_optimizer(config, schedule, steps, groups), groups


def run(config: OptimizerConfig, schedule: ScheduleConfig, steps: int) -> Any:
    """Parameters after so many updates."""
    optimizer, _ = made(config, schedule, steps)
    params = tiny_params()
    return updated(optimizer, params, steps)


def updated(optimizer: optax.GradientTransformation, params: Any, steps: int) -> Any:
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for step in range(steps):
        updates, state = update(gradient_of(step, params), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parity
def test_ten_steps_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    ours = run(AdamW(peak_lr=0.05, weight_decay=0.1, clip_norm=1.0), Linear(warmup=3), 10)
    norms = [float(optax.tree.norm(gradient_of(step, tiny_params()))) for step in range(10)]
    assert min(norms) < 1.0 < max(norms), "both branches of clipping are taken"

    leaves, form = jax.tree.flatten(tiny_params())
    decay = jax.tree.leaves(decays(tiny_params()))
    theirs = [torch.nn.Parameter(torch.tensor(np.array(x))) for x in leaves]
    groups = [{"params": [p], "weight_decay": 0.1 if d else 0.0} for p, d in zip(theirs, decay, strict=True)]
    optimizer = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.999), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / 3 if step < 3 else max(0.0, (10 - step) / 7)
    )
    for step in range(10):
        gradients = jax.tree.leaves(gradient_of(step, tiny_params()))
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = torch.tensor(np.array(gradient))
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        optimizer.step()
        schedule.step()
    expected = jax.tree.unflatten(form, [p.detach().numpy() for p in theirs])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), ours, expected)


@pytest.mark.parity
def test_groups_equal_those_of_torch() -> None:
    """A share of the learning rate, a decay of its own, and a frozen parameter, which does not count for clipping."""
    torch = pytest.importorskip("torch")
    rules = [
        {"match": ".*/layer/kernel", "lr_scale": 0.25, "weight_decay": 0.3},
        {"match": ".*/norm/scale", "lr_scale": 0},
        {"match": "student/.*", "weight_decay": 0.2},
        {"match": ".*", "lr_scale": 0.5},
    ]
    config, params = AdamW.model_validate({"peak_lr": 0.05, "groups": rules}), tiny_params()
    optimizer, groups = made(config, Constant(warmup=0), 10)
    trained, frozen = groups.split(params)
    start = trained
    assert jax.tree.map(jnp.shape, frozen) == {"student": {"norm": {"scale": (3,)}}}
    trained = updated(optimizer, trained, 5)

    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(np.array(x))), start)
    layer, temperature = theirs["student"]["layer"], theirs["losses"]["contrast"]["temperature"]
    parts = [
        {"params": [layer["kernel"]], "lr": 0.25 * 0.05, "weight_decay": 0.3},
        {"params": [layer["bias"]], "lr": 0.05, "weight_decay": 0.2},
        {"params": [temperature], "lr": 0.5 * 0.05, "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(parts, betas=(0.9, 0.999), eps=1e-8)
    for step in range(5):
        gradients = jax.tree.leaves(gradient_of(step, trained))
        for parameter, gradient in zip(jax.tree.leaves(theirs), gradients, strict=True):
            parameter.grad = torch.tensor(np.array(gradient))
        torch.nn.utils.clip_grad_norm_(jax.tree.leaves(theirs), 1.0)
        reference.step()
    expected = jax.tree.map(lambda p: p.detach().numpy(), theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), trained, expected)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_equals_optax(clip: float | None) -> None:
    ours = run(AdamW(peak_lr=0.02, weight_decay=0.3, clip_norm=clip), Cosine(warmup=0.3), 10)
    params = tiny_params()
    chain = optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.adamw(make_schedule(Cosine(warmup=0.3), 0.02, 10), weight_decay=0.3, mask=decays(params)),
    )
    state = chain.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic is not strict
        for step in range(10):
            updates, state = chain.update(gradient_of(step, params), state, params)
            params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, params)


@pytest.mark.parametrize(
    ("kind", "after"),
    [
        (Linear, lambda x: 1 - x),
        (Cosine, lambda x: 0.5 * (1 + math.cos(math.pi * x))),
        (Constant, lambda x: 1.0),
    ],
)
@pytest.mark.parametrize(("warmup", "steps"), [(4, 4), (0.2, 4), (0, 0), (1, 1)])
def test_schedules(kind: Any, after: Any, warmup: float, steps: int) -> None:
    schedule = make_schedule(kind(warmup=warmup), 2.0, 20)
    for step in range(20):
        expected = step / steps if step < steps else after((step - steps) / (20 - steps))
        assert float(schedule(jnp.int32(step))) == pytest.approx(2.0 * expected, abs=1e-6)


@pytest.mark.parametrize(("decay", "steps"), [(5, 5), (0.25, 5), (100, 16)])
@pytest.mark.parametrize("shape", ["linear", "sqrt"])
def test_warmup_stable_decay(decay: float, steps: int, shape: Any) -> None:
    schedule = make_schedule(WarmupStableDecay(warmup=4, decay=decay, shape=shape), 2.0, 20)
    for step in range(20):
        x = max(0, step - (20 - steps)) / steps
        expected = step / 4 if step < 4 else 1 - (x if shape == "linear" else math.sqrt(x))
        assert float(jnp.asarray(schedule(jnp.int32(step)))) == pytest.approx(2.0 * expected, abs=1e-6)


@pytest.mark.parametrize(
    ("config", "then"),
    [
        (Linear(warmup=4), optax.linear_schedule(2.0, 0.0, 16)),
        (Cosine(warmup=4), optax.cosine_decay_schedule(2.0, 16)),
        (Constant(warmup=4), optax.constant_schedule(2.0)),
        (
            WarmupStableDecay(warmup=4, decay=6),
            optax.join_schedules([optax.constant_schedule(2.0), optax.linear_schedule(2.0, 0.0, 6)], [10]),
        ),
    ],
)
def test_schedules_equal_those_of_optax(config: ScheduleConfig, then: optax.Schedule) -> None:
    ours, theirs = make_schedule(config, 2.0, 20), optax.join_schedules([optax.linear_schedule(0.0, 2.0, 4), then], [4])
    steps = range(21)
    np.testing.assert_allclose([ours(step) for step in steps], [theirs(step) for step in steps], atol=1e-6)


def test_decay_spares_biases_norms_and_losses() -> None:
    mask = decays(tiny_params())
    assert mask == {
        "student": {"layer": {"kernel": True, "bias": False}, "norm": {"scale": False}},
        "losses": {"contrast": {"temperature": False}},
    }


def test_every_parameter_needs_a_rule() -> None:
    with pytest.raises(ValueError, match=r"2 parameters match no weight decay rule.*student/a/gamma, student/mystery"):
        decays({"student": {"a": {"gamma": jnp.ones(2)}, "mystery": jnp.ones(2)}})
