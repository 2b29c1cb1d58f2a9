"""Post-norm encoders with a table of positions."""

from tests.student.encoders.cases.base import Case
from tests.student.encoders.vocabularies import BERT, wordpiece

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
FEW = {**SIZES, "num_hidden_layers": 1}

_BERT = Case(
    hf={"model_type": "bert", **SIZES},
    vocabulary=wordpiece(BERT),
    refused=(
        ({"position_embedding_type": "relative_key"}, "relative"),
        ({"is_decoder": True}, "decoder"),
        ({"hidden_act": "quick_gelu"}, "quick_gelu"),
    ),
)


CASES = {
    "bert": _BERT,
    **{
        f"bert, {act}": _BERT._replace(hf={"model_type": "bert", **FEW, "hidden_act": act}, variant=True)
        for act in ("gelu_new", "relu", "silu")
    },
}
