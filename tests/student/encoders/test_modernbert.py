"""ModernBERT: kept layers attend as far as they did, deep ones repeat, random ones are drawn as there."""

import jax
import numpy as np
import pytest
from flax import nnx

from jdistill.config import UserError
from jdistill.student import weights
from jdistill.student.encoders import ModernBertConfig
from jdistill.student.packing import rows_of
from jdistill.student.stack import Pattern, find_pattern
from tests.student.encoders.measure import (
    FAST_TO_COMPILE,
    architecture,
    make,
    mask_of,
    params_of,
    tensors_of,
    tokens_of,
)


@pytest.mark.parity
def test_kept_layers_attend_as_far_as_they_did() -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModel

    config = architecture("modernbert")
    small, kept = config.keep_layers(params_of(config, tensors_of("modernbert")), [0, 3, 2])
    assert isinstance(small, ModernBertConfig)
    assert small.types == ["full_attention", "full_attention", "sliding_attention"]
    # No turn of a pattern says this, which is all that transformers 4 could report.
    assert "global_attn_every_n_layers" not in small.to_hf()
    assert config.to_hf()["global_attn_every_n_layers"] == 3

    theirs = AutoModel.from_config(AutoConfig.for_model(**small.to_hf()), attn_implementation="eager").eval()
    tensors = weights.to_hf(small.weights(), kept)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()})
    tokens, mask = tokens_of("modernbert", "right"), mask_of("right")
    with torch.no_grad():
        attention_mask = torch.tensor(mask.astype(np.int64))
        expected = theirs(torch.tensor(np.asarray(tokens.ids)), attention_mask=attention_mask).last_hidden_state
    graph = nnx.split(nnx.eval_shape(lambda: make(small)))[0]
    run = jax.jit(lambda p: nnx.merge(graph, p)(rows_of(tokens), layers=(3,))[3], compiler_options=FAST_TO_COMPILE)
    ours = run(kept)
    np.testing.assert_allclose(np.asarray(ours)[mask], expected.numpy()[mask], atol=1e-5)


@pytest.mark.parametrize("layers", [[2, 3], [0, 2, 0], [1]])
def test_the_first_layer_stays_the_first(layers: list[int]) -> None:
    with pytest.raises(UserError, match="must start with layer 0, the only one without a norm"):
        ModernBertConfig(size="ettin-17m").with_layers(layers)


@pytest.mark.parametrize(
    ("size", "turns"), [("ettin-17m", 2), ("ettin-32m", 3), ("ettin-68m", 6), ("ettin-150m", 7), ("ettin-400m", 9)]
)
def test_layers_but_the_first_repeat_in_threes(size: str, turns: int) -> None:
    depth = ModernBertConfig(size=size).depth
    config = ModernBertConfig(num_hidden_layers=depth, hidden_size=8, num_attention_heads=2, vocab_size=5)
    module = nnx.eval_shape(lambda: make(config))
    graphs = [nnx.split(module.layers[str(i)])[0] for i in range(depth)]
    assert find_pattern([graphs.index(graph) for graph in graphs]) == Pattern(1, 3, turns)
    assert depth == 1 + 3 * turns


def test_what_is_added_is_drawn_smaller() -> None:
    config = ModernBertConfig(
        num_hidden_layers=8, hidden_size=64, num_attention_heads=2, intermediate_size=64, vocab_size=5
    )
    layer = make(config).layers["1"]
    for name, std in {"query": 0.02, "up": 0.02, "gate": 0.02, "out": 0.005, "down": 0.005}.items():
        assert float(getattr(layer, name).kernel[...].std()) == pytest.approx(std, rel=0.1)
