"""Encoders with rotary positions."""

from tests.student.encoders.cases.base import Case
from tests.student.encoders.vocabularies import BERT, Special, byte_pairs, wordpiece

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}

LLAMA = Special("<|pad|>", "<|unk|>", "<|begin|>", "<|end|>", "<|mask|>", "begin end mask pad unknown")
"""Qwen's texts have a token at their end only."""

_MODERNBERT = Case(
    # The first layer and every third after it attend everything, the others two places on each side.
    hf={"model_type": "modernbert", **SIZES, "num_hidden_layers": 4, "local_attention": 5},
    vocabulary=byte_pairs(BERT),
    keep=(0, 3, 2),
    refused=(
        ({"hidden_activation": "quick_gelu"}, "hidden_activation: is 'quick_gelu'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is .* not supported"),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, "rope_type is linear"),
        (
            {"rope_parameters": {"sliding_attention": {"rope_type": "yarn"}}},
            "rope_type default and linear",
        ),
        ({"num_attention_heads": 5}, "32 is not divisible by 5"),
        ({"layer_types": ["full_attention"]}, "lists 1 layers, but num_hidden_layers is 4"),
    ),
)

_EUROBERT = Case(
    hf={"model_type": "eurobert", **SIZES, "num_key_value_heads": 2, "rope_parameters": {"rope_theta": 250_000.0}},
    vocabulary=byte_pairs(LLAMA),
    heads=("MaskedLM", "SequenceClassification", "TokenClassification"),
    refused=(
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_type default and linear"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor",
        ),
        ({"num_key_value_heads": 3}, "4 attention heads are not divisible by 3 key-value heads"),
        ({"head_dim": 5}, "heads have width 5"),
    ),
)

_NOMICBERT = Case(
    hf={"model_type": "nomic_bert", **SIZES},
    vocabulary=wordpiece(BERT),
    heads=("MaskedLM", "SequenceClassification", "TokenClassification"),
    refused=(
        ({"prenorm": True, "qkv_proj_bias": True}, "prenorm is True and qkv_proj_bias is True"),
        ({"rotary_emb_fraction": 0.5}, "rotary_emb_fraction is 0.5"),
        ({"activation_function": "gelu"}, "activation_function is 'gelu'"),
        ({"num_experts": 8, "moe_every_n_layers": 2}, "num_experts is 8"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type is linear"),
    ),
)

_QWEN3 = Case(
    hf={
        "model_type": "qwen3",
        **SIZES,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "rope_parameters": {"rope_theta": 1_000_000.0},
    },
    vocabulary=byte_pairs(LLAMA, begins=False),
    heads=("CausalLM", "SequenceClassification", "TokenClassification"),
    refused=(
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type default and linear"),
        ({"layer_types": ["sliding_attention"] * 3}, "sliding_window is not set"),
    ),
    pooling="lasttoken",
)
_QWEN3_WINDOW = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}

_GEMMA3 = Case(
    hf={
        "model_type": "gemma3_text",
        **SIZES,
        "num_key_value_heads": 1,
        "head_dim": 12,
        # Two places on each side in the first and third layer.
        "use_bidirectional_attention": True,
        "sliding_window": 4,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 16,
    },
    vocabulary=byte_pairs(LLAMA),
    heads=("CausalLM", "SequenceClassification"),
    refused=(
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"is_causal": False}, "is_causal is False"),
        ({"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "of sliding_attention"),
    ),
)


def _variant(case: Case, **changes: object) -> Case:
    return case._replace(hf=case.hf | changes, variant=True)


CASES = {
    "modernbert": _MODERNBERT,
    "modernbert, biases": _variant(
        _MODERNBERT, num_hidden_layers=2, norm_bias=True, attention_bias=True, mlp_bias=True, hidden_activation="silu"
    ),
    "modernbert, listed layers": _variant(
        _MODERNBERT,
        num_hidden_layers=2,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": {"rope_theta": 500.0}, "sliding_attention": {"rope_theta": 7.0}},
    ),
    "eurobert": _EUROBERT,
    "eurobert, wide heads and biases": _variant(
        _EUROBERT,
        num_hidden_layers=2,
        head_dim=12,
        attention_bias=True,
        mlp_bias=True,
        rope_parameters={"rope_theta": 100.0, "rope_type": "linear", "factor": 4.0},
    ),
    "nomicbert": _NOMICBERT,
    "nomicbert, wide heads": _variant(_NOMICBERT, num_hidden_layers=1, head_dim=12, hidden_act="gelu"),
    "qwen3": _QWEN3,
    "qwen3, both ways": _variant(_QWEN3, num_hidden_layers=2, is_causal=False, attention_bias=True),
    "qwen3, window": _variant(_QWEN3, num_hidden_layers=2, **_QWEN3_WINDOW),
    "qwen3, window both ways": _variant(_QWEN3, num_hidden_layers=2, is_causal=False, **_QWEN3_WINDOW),
    "gemma3": _GEMMA3,
    "gemma3, causal": _variant(
        _GEMMA3,
        num_hidden_layers=2,
        use_bidirectional_attention=False,
        attention_bias=True,
        rope_parameters={
            "full_attention": {"rope_theta": 500.0, "rope_type": "linear", "factor": 4.0},
            "sliding_attention": {"rope_theta": 7.0},
        },
    ),
}
