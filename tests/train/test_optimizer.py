"""AdamW against torch, schedules against transformers' formulas, and decay rules that cover everything."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jdistill.train import AdamWConfig
from jdistill.train.groups import decays
from jdistill.train.optimizer import AdamW, make_schedule


def tiny_params() -> Any:
    rng = np.random.default_rng(0)
    student = {"layer": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)}, "norm": {"scale": np.ones(3)}}
    params = {"student": student, "losses": {"contrast": {"temperature": np.array(0.5)}}}
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def gradient_of(step: int, like: Any) -> Any:
    """Gradients that are clipped in some steps and not in others."""
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.15 * (1 + step % 3), jnp.float32), like)


def run(config: AdamWConfig, steps: int) -> tuple[Any, list[float]]:
    optimizer = AdamW(config, steps)
    params = tiny_params()
    state, norms = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for step in range(steps):
        params, state, norm = update(gradient_of(step, params), state, params, jnp.int32(step))
        norms.append(float(norm.gradient))
    return params, norms


@pytest.mark.parity
def test_ten_steps_equal_torch() -> None:
    torch = pytest.importorskip("torch")
    config = AdamWConfig(peak_lr=0.05, warmup=3, weight_decay=0.1, clip_norm=1.0)
    ours, norms = run(config, 10)
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
    config = AdamWConfig.model_validate({"peak_lr": 0.05, "schedule": "constant", "warmup": 0, "groups": rules})
    optimizer, params = AdamW(config, 10), tiny_params()
    state = optimizer.init(params)
    trained, frozen = optimizer.groups.split(params)
    assert jax.tree.map(jnp.shape, frozen) == {"student": {"norm": {"scale": (3,)}}}
    for step in range(5):
        trained, state, _ = optimizer.update(gradient_of(step, trained), state, trained, jnp.int32(step))

    theirs = jax.tree.map(lambda x: torch.nn.Parameter(torch.tensor(np.array(x))), optimizer.groups.split(params)[0])
    layer, temperature = theirs["student"]["layer"], theirs["losses"]["contrast"]["temperature"]
    groups = [
        {"params": [layer["kernel"]], "lr": 0.25 * 0.05, "weight_decay": 0.3},
        {"params": [layer["bias"]], "lr": 0.05, "weight_decay": 0.2},
        {"params": [temperature], "lr": 0.5 * 0.05, "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
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
    config = AdamWConfig(peak_lr=0.02, schedule="cosine", warmup=0.3, weight_decay=0.3, clip_norm=clip)
    ours, _ = run(config, 10)
    params = tiny_params()
    chain = optax.chain(
        optax.identity() if clip is None else optax.clip_by_global_norm(clip),
        optax.adamw(make_schedule(config, 10), weight_decay=0.3, mask=decays(params)),
    )
    state = chain.init(params)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic is not strict
        for step in range(10):
            updates, state = chain.update(gradient_of(step, params), state, params)
            params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, params)


def test_norms_are_those_of_gradient_and_change() -> None:
    optimizer = AdamW(AdamWConfig(warmup=0), 10)
    params = tiny_params()
    gradients = gradient_of(2, params)
    new, _, norms = optimizer.update(gradients, optimizer.init(params), params, jnp.int32(0))
    change = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), new, params)
    for tree, norm in ((gradients, norms.gradient), (change, norms.update)):
        square = sum(float((np.asarray(x, np.float64) ** 2).sum()) for x in jax.tree.leaves(tree))
        assert float(norm) == pytest.approx(math.sqrt(square), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "after"),
    [("linear", lambda x: 1 - x), ("cosine", lambda x: 0.5 * (1 + math.cos(math.pi * x))), ("constant", lambda x: 1.0)],
)
@pytest.mark.parametrize(("warmup", "steps"), [(4, 4), (0.2, 4), (0, 0), (1, 1)])
def test_schedules(kind: Any, after: Any, warmup: float, steps: int) -> None:
    schedule = make_schedule(AdamWConfig(peak_lr=2.0, schedule=kind, warmup=warmup), 20)
    for step in range(20):
        expected = step / steps if step < steps else after((step - steps) / (20 - steps))
        assert float(schedule(jnp.int32(step))) == pytest.approx(2.0 * expected, abs=1e-6)


def test_decay_spares_biases_norms_and_losses() -> None:
    mask = decays(tiny_params())
    assert mask == {
        "student": {"layer": {"kernel": True, "bias": False}, "norm": {"scale": False}},
        "losses": {"contrast": {"temperature": False}},
    }


def test_every_parameter_needs_a_rule() -> None:
    with pytest.raises(ValueError, match=r"2 parameters match no weight decay rule.*student/a/gamma, student/mystery"):
        decays({"student": {"a": {"gamma": jnp.ones(2)}, "mystery": jnp.ones(2)}})
