"""`config.json` of encoders with rotary positions: the forms of transformers 4 and 5 mean the same."""

import json
from typing import Any

import pytest

from jdistill.student.encoders import MODEL_TYPES, Gemma3Config, ModernBertConfig, NomicBertConfig, Qwen3Config

SIZES = {"hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 99}

LLAMA = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6}

OLD: dict[str, dict[str, Any]] = {
    "modernbert": {
        "model_type": "modernbert",
        **SIZES,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 20000.0,
        "norm_eps": 1e-5,
        "pad_token_id": None,
    },
    "modernbert, other pattern, thetas left out": {
        "model_type": "modernbert",
        **SIZES,
        "global_attn_every_n_layers": 2,
        "pad_token_id": None,
    },
    "eurobert": {"model_type": "eurobert", **LLAMA, "rope_theta": 250000, "rope_scaling": None, "head_dim": 8},
    "eurobert, scaled": {
        "model_type": "eurobert",
        **LLAMA,
        "head_dim": 12,
        "pad_token_id": None,
        "rope_theta": 500.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    },
    "eurobert, little said": {"model_type": "eurobert", **SIZES, "pad_token_id": None},
    "nomicbert": {"model_type": "nomic_bert", **SIZES, "rope_theta": 500.0},
    "qwen3": {"model_type": "qwen3", **LLAMA, "head_dim": 16, "rope_theta": 1000000, "use_sliding_window": False},
    "qwen3, not causal": {"model_type": "qwen3", **LLAMA, "rope_theta": 1000000, "is_causal": False},
    "qwen3, windows": {
        "model_type": "qwen3",
        **LLAMA,
        "rope_theta": 5000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "use_sliding_window": True,
        "sliding_window": 100,
        "max_window_layers": 3,
    },
    "qwen3, little said": {"model_type": "qwen3", **SIZES, "num_attention_heads": 32},
    "gemma3": {
        "model_type": "gemma3_text",
        **LLAMA,
        "head_dim": 16,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 512,
        "_sliding_window_pattern": 6,
        "use_bidirectional_attention": True,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
    },
    "gemma3, causal": {
        "model_type": "gemma3_text",
        **LLAMA,
        "rope_theta": 5000.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 100,
        "sliding_window_pattern": 3,
    },
    "gemma3, little said": {"model_type": "gemma3_text", **SIZES},
}


@pytest.mark.parity
@pytest.mark.parametrize("label", OLD)
def test_the_old_form_is_read_as_transformers_reads_it(label: str) -> None:
    pytest.importorskip("torch")
    from transformers import AutoConfig

    old = OLD[label]
    architecture = MODEL_TYPES[old["model_type"]]
    theirs = AutoConfig.for_model(**{key: json.loads(json.dumps(value)) for key, value in old.items()})
    ours = architecture.from_hf(old, where="old")
    assert architecture.from_hf(json.loads(theirs.to_json_string()), where="new") == ours
    # And transformers reads what we write as we do.
    again = AutoConfig.for_model(**json.loads(json.dumps(ours.to_hf())))
    assert architecture.from_hf(json.loads(again.to_json_string()), where="again") == ours


def test_patterns_and_windows() -> None:
    modernbert = ModernBertConfig.from_hf(OLD["modernbert"], where="x")
    assert [t[0] for t in modernbert.types] == [*"fssfssf"]
    assert (modernbert.rope_theta, modernbert.local_rope_theta) == (160_000.0, 20_000.0)
    causal = Qwen3Config.from_hf(OLD["qwen3, windows"], where="x")
    assert [causal.layer(i).window for i in (0, 2, 3, 6)] == [(None, 0), (None, 0), (99, 0), (99, 0)]
    assert causal.model_copy(update={"is_causal": False}).layer(3).window == (100, 100)
    gemma = Gemma3Config.from_hf(OLD["gemma3"], where="x")
    assert [gemma.layer(i).window for i in (0, 5)] == [(256, 256), (None, None)]
    assert Gemma3Config.from_hf(OLD["gemma3, causal"], where="x").layer(0).window == (99, 0)


def test_a_null_theta_of_local_layers_is_that_of_the_others() -> None:
    config = ModernBertConfig.from_hf(OLD["modernbert"] | {"local_rope_theta": None}, where="x")
    assert config.local_rope_theta == config.rope_theta == 160_000.0


NOMIC = {
    "model_type": "nomic_bert",
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 8192,
    "vocab_size": 99,
    "type_vocab_size": 2,
    "layer_norm_epsilon": 1e-6,
    "activation_function": "swiglu",
    "rotary_emb_base": 500,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "prenorm": False,
    "rotary_emb_scale_base": None,
    "rotary_scaling_factor": None,
    "max_trained_positions": 2048,
    "causal": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "use_rms_norm": False,
}
"""In the form that came before transformers knew the architecture."""


def test_nomicberts_first_form() -> None:
    widths = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "intermediate_size": 48}
    expected = NomicBertConfig.model_validate(
        {
            **widths,
            "vocab_size": 99,
            "num_hidden_layers": 3,
            "max_position_embeddings": 8192,
            "layer_norm_eps": 1e-6,
            "rope_theta": 500.0,
        }
    )
    assert NomicBertConfig.from_hf(NOMIC, where="x") == expected
    geglu = NomicBertConfig.from_hf(NOMIC | {"activation_function": "geglu", "n_inner": None}, where="x")
    assert (geglu.hidden_act, geglu.intermediate_size) == ("gelu", 128)


def test_lengths_are_not_cut_to_those_trained_on() -> None:
    config = NomicBertConfig.from_hf(NOMIC | {"rotary_scaling_factor": 2}, where="x")
    assert (config.max_positions, config.stored_positions) == (8192, None)


@pytest.mark.parity
@pytest.mark.parametrize("kind", MODEL_TYPES)
def test_what_is_left_out_means_what_transformers_means(kind: str) -> None:
    from transformers import AutoConfig

    read = MODEL_TYPES[kind].from_hf
    whole = json.loads(AutoConfig.for_model(kind).to_json_string(use_diff=False))
    expected = read(whole, where="config.json")
    assert read({"model_type": kind}, where="config.json") == expected
    # Lists of layers say the depth once more, so that they would tell where one is left out.
    for key in set(whole) - {"model_type", "layer_types"}:
        assert read({name: value for name, value in whole.items() if name != key}, where="config.json") == expected, key
