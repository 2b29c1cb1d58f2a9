"""Fewer heads, neurons and dimensions: what adds nothing goes without a trace, and what can be made up for is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jdistill.config import UserError
from jdistill.student.encoders import MODEL_TYPES
from jdistill.student.encoders.base import Computing
from jdistill.student.packing import rows_of
from jdistill.student.pruning.activations import Moments, Sample
from jdistill.student.pruning.config import PruneConfig, Width
from jdistill.student.pruning.narrow import narrow
from jdistill.student.pruning.selection import choose_heads
from jdistill.student.pruning.sizes import Sizes, cut_encoder, sizes_of
from jdistill.student.weights import flatten, nest
from jdistill.types import Tokens
from tests.student.encoders.cases import CASES, MAIN

COMPUTING = Computing(jnp.dtype("float32"))
IDS = np.random.default_rng(0).integers(6, 60, (40, 12))
LENGTHS = 1 + np.arange(40) % 12


def _cuts(**options):
    return PruneConfig(init="model", output="small", **options)


def architecture(label):
    hf = CASES[label].hf
    return MODEL_TYPES[hf["model_type"]].from_hf({"vocab_size": 60, **hf}, where=label)


SHARED_WIDTH = [label for label in MAIN if "head_dim" not in type(architecture(label)).model_fields]


@functools.cache
def _random(label, scale=5):
    """Parameters with larger weights than usual, biases and scales among them, as flat arrays."""
    module = architecture(label).make_module(COMPUTING, rngs=nnx.Rngs(0))
    flat = flatten(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    rng = np.random.default_rng(1)
    return {path: np.asarray(x) * scale + 0.1 * rng.normal(size=x.shape).astype(np.float32) for path, x in flat.items()}


def _hidden(config, params):
    tokens = Tokens(jnp.asarray(IDS, jnp.int32), jnp.asarray(np.arange(12) < LENGTHS[:, None]))
    graph = nnx.split(nnx.eval_shape(lambda: config.make_module(COMPUTING, rngs=nnx.Rngs(0))))[0]

    @jax.jit
    def run(params):
        return nnx.merge(graph, params)(rows_of(tokens), layers=(config.depth,))[config.depth]

    return np.asarray(run(jax.tree.map(jnp.asarray, params)))[np.asarray(tokens.mask)]


def _sample(config, params):
    ids = [row[:length].tolist() for row, length in zip(IDS, LENGTHS, strict=True)]
    return Sample(config, params, ids, pad_id=0)


def _narrowed(before, flat, cuts):
    after, params = cut_encoder(before, cuts), nest(flat)
    by = "importance" if cuts.width is None else cuts.width.by
    narrowed = narrow(before, after, params, _sample(before, params), by=by)
    return _hidden(before, params), _hidden(after, narrowed)


def _assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@pytest.mark.parametrize("label", ["bert", "modernbert", "gemma3"])
def test_dead_neurons_go_without_a_trace(label):
    flat, count = dict(_random(label)), architecture(label).intermediate_size
    for i in range(architecture(label).depth):
        dead = np.random.default_rng(i).permutation(count)[: count - 20]
        kernel = flat[f"layers.{i}.down.kernel"].copy()
        kernel[dead] = 0
        flat[f"layers.{i}.down.kernel"] = kernel
    before, after = _narrowed(architecture(label), flat, _cuts(intermediate=20))
    _assert_close(after, before, 1e-5)


@pytest.mark.parametrize(("label", "dead", "heads"), [
    ("nomicbert", [[0, 2], [1, 3], [0, 3]], 2),
    # Two heads share each of two; one of each goes, or both of one.
    ("qwen3", [[0, 3], [1, 2], [0, 2]], 2),
    ("eurobert", [[0, 2], [1, 3], [0, 3]], 2),
    # All four share one.
    ("gemma3", [[0, 3], [1, 2], [2, 3]], 2),
])  # fmt: skip
def test_dead_heads_go_without_a_trace(label, dead, heads):
    # Weights any larger make attention so sharp that the order of a sum alone changes vectors by 1e-5.
    flat, width = dict(_random(label, scale=3)), sizes_of(architecture(label)).head_width
    for i, numbers in enumerate(dead):
        kernel = flat[f"layers.{i}.out.kernel"].copy().reshape(4, width, -1)
        kernel[numbers] = 0
        flat[f"layers.{i}.out.kernel"] = kernel.reshape(4 * width, -1)
    before, after = _narrowed(architecture(label), flat, _cuts(heads=heads))
    _assert_close(after, before, 1e-5)


@pytest.mark.parametrize("label", SHARED_WIDTH)
def test_heads_go_with_the_width_that_they_share(label):
    """The weak one goes, in each layer another; where all share a table of distances, the one that is weak in all."""
    flat, config = dict(_random(label)), architecture(label)
    weak = [0 if label == "mpnet" else i % 4 for i in range(config.depth)]
    for i, head in enumerate(weak):
        kernel = flat[f"layers.{i}.out.kernel"].copy()
        kernel[8 * head : 8 * head + 8] = 0
        flat[f"layers.{i}.out.kernel"] = kernel
    moments = _sample(config, nest(flat)).moments([f"layers.{i}.out" for i in range(config.depth)])
    old = sizes_of(config)
    choices = choose_heads(flat, moments, old, old._replace(width=24, heads=3, shared=3), config.depth)
    for choice, head in zip(choices, weak, strict=True):
        assert choice.queries.tolist() == choice.shared.tolist() == [i for i in range(4) if i != head]


def test_groups_of_heads_that_share_keys():
    kernel, moments = np.ones((8, 5)), Moments(1.0, np.zeros(8), np.diag([4.0, 1, 3, 9, 2, 2, 8, 7]))
    flat, through = {"layers.0.out.kernel": kernel}, {"layers.0.out": moments}
    old = Sizes(width=5, heads=8, shared=4, head_width=1, intermediate=1)
    # Of each pair one: the larger of (4, 1), (3, 9), (2, 2) and (8, 7).
    (choice,) = choose_heads(flat, through, old, old._replace(heads=4), 1)
    assert (choice.queries.tolist(), choice.shared.tolist()) == ([0, 3, 4, 6], [0, 1, 2, 3])
    # Three pairs, for six heads do not divide over four.
    (choice,) = choose_heads(flat, through, old, old._replace(heads=6, shared=3), 1)
    assert (choice.queries.tolist(), choice.shared.tolist()) == ([0, 1, 2, 3, 6, 7], [0, 1, 3])


@pytest.mark.parametrize(("label", "by"), [("gemma3", "importance"), ("gemma3", "pca"), ("eurobert", "importance")])
def test_a_narrow_model_within_a_wide_one_is_found(label, by):
    """Dimensions into which nothing is ever written: only the mean square is over fewer numbers, as scales make up for.

    What is added to the mean square is not, and the sharp attention of large weights shows it.
    """
    flat, dead = dict(_random(label)), np.array([1, 4, 5, 11, 19, 20, 27, 31])
    for path in flat:
        if path == "embeddings.words" or path.endswith(("out.kernel", "down.kernel", "out.bias", "down.bias")):
            flat[path] = flat[path].copy()
            flat[path][..., dead] = 0
    before, after = _narrowed(architecture(label), flat, _cuts(width=Width(to=24, by=by)))
    live = np.delete(np.arange(32), dead)
    assert not before[:, dead].any()
    if by == "importance":
        _assert_close(after, before[:, live], 1e-2)
    # The rotation that turns least is none.
    _assert_close(after @ after.T, before @ before.T, 1e-2)


@pytest.mark.parametrize("label", ["bert", "modernbert", "qwen3"])
def test_what_repeats_another_neuron_is_made_up_for(label):
    """Every neuron has a weaker double that always agrees: without it the other can do for both."""
    config, half = architecture(label).with_layers([0]), architecture(label).intermediate_size // 2
    flat = {path: x for path, x in _random(label).items() if not path.startswith("layers.") or ".0." in path}
    for path in flat:
        if ".up." in path or ".gate." in path:
            flat[path] = np.concatenate([flat[path][..., :half]] * 2, axis=-1)
    moments = _sample(config, nest(flat)).moments(["layers.0.down"])["layers.0.down"]
    # Every neuron adds as much as any other, but for the doubles, which add half as much in other directions.
    rows = _unit(flat["layers.0.down.kernel"]) / np.sqrt(np.diag(moments.covariance))[:, None]
    flat["layers.0.down.kernel"] = (rows * np.repeat([3, 1.5], half)[:, None]).astype(np.float32)
    before, after = _narrowed(config, flat, _cuts(intermediate=half))
    _assert_close(after, before, 1e-2)
    left_out = dict(flat, **{"layers.0.down.kernel": np.where(np.arange(2 * half)[:, None] < half, rows * 3, 0)})
    assert np.abs(_hidden(config, nest(left_out)) - before).mean() > 10 * np.abs(after - before).mean()


@pytest.mark.parametrize(
    ("label", "by"), [*((label, "importance") for label in MAIN), ("bert", "pca"), ("modernbert", "pca")]
)
def test_everything_at_once_is_nearer_than_leaving_out_alone(label, by):
    """Random weights have nothing to spare, so the result is far off; but not as far as of a plain cut."""
    before = architecture(label)
    flat = _random(label)
    cuts = _cuts(width=Width(to=24, by=by), intermediate=40)
    whole, narrowed = _narrowed(architecture(label), dict(flat), cuts)
    assert narrowed.shape == (len(whole), 24)
    assert np.isfinite(narrowed).all()
    plain = _plainly_cut(flat, before, 24, 40)
    angles, ours, theirs = (_cosines(x) for x in (whole, narrowed, _hidden(cut_encoder(before, cuts), nest(plain))))
    assert np.abs(ours - angles).mean() < np.abs(theirs - angles).mean()


def _plainly_cut(flat, before, width, inner):
    """The first dimensions, neurons and, where they share the width, heads."""
    heads = width if "head_dim" not in type(before).model_fields else None
    cut = {}
    for path, value in flat.items():
        name, end = path.split(".")[-2:] if "." in path else ("", path)
        rows, columns = {
            **dict.fromkeys(("query", "key", "value"), (width, heads)),
            "out": (heads, width),
            **dict.fromkeys(("up", "gate"), (width, inner)),
            "down": (inner, width),
            "query_norm": (None, None),
            "key_norm": (None, None),
        }.get(name, (None, width))
        if end == "distance_bias":
            columns = 3
        cut[path] = value[:rows, :columns] if value.ndim == 2 else value[:columns]
    return cut


def _unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _cosines(x):
    return _unit(x) @ _unit(x).T


@pytest.mark.parametrize(("label", "cuts", "words"), [
    ("bert", _cuts(heads=2), "2 heads need a width of 16"),
    ("bert", _cuts(width=Width(to=20)), "multiple, such as 16"),
    ("bert", _cuts(width=Width(to=16), heads=3), "3 heads need a width of 24"),
    ("bert", _cuts(width=Width(to=40)), "the model has 32 dimensions"),
    ("bert", _cuts(intermediate=100), "the model has 48 neurons"),
    ("nomicbert", _cuts(heads=5), "the model has 4 heads"),
    ("qwen3", _cuts(heads=3), "multiple of 2"),
    ("gemma3", _cuts(width=Width(to=30)), "30 is not divisible by 4"),
])  # fmt: skip
def test_sizes_that_do_not_go_together_are_refused(label, cuts, words):
    with pytest.raises(UserError, match=words):
        cut_encoder(architecture(label), cuts)


def test_sizes_of_heads_that_have_their_own_width():
    cut = cut_encoder(architecture("nomicbert"), _cuts(width=Width(to=20), heads=3, intermediate=10))
    assert sizes_of(cut) == (20, 3, 3, 8, 10)
    assert sizes_of(cut_encoder(architecture("qwen3"), _cuts(heads=2))) == (32, 2, 2, 12, 48)
    assert sizes_of(cut_encoder(architecture("bert"), _cuts(width=Width(to=16)))) == (16, 2, 2, 8, 48)
