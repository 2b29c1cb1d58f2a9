"""Post-norm encoders with a table of positions."""

from tests.student.encoders.cases.base import Case
from tests.student.encoders.vocabularies import BERT, FAIRSEQ, MPNET, byte_pairs, unigram, wordpiece

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
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type is 'relative_key', which is not",
        ),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_act": "quick_gelu"}, "hidden_act: is 'quick_gelu'"),
        ({"hidden_size": 33}, "33 is not divisible by 4"),
    ),
)

_ROBERTA = Case(
    # Two positions are no token's: that of padding, 1, and that before it.
    hf={"model_type": "roberta", **SIZES, "max_position_embeddings": 26, "type_vocab_size": 1, "layer_norm_eps": 1e-5},
    vocabulary=byte_pairs(FAIRSEQ),
    refused=(
        *_BERT.refused,
        ({"max_position_embeddings": 2}, "leaves no position for a token, since positions start at 2"),
    ),
)

_MPNET = Case(
    hf={"model_type": "mpnet", **SIZES, "max_position_embeddings": 26, "layer_norm_eps": 1e-5},
    vocabulary=wordpiece(MPNET),
    refused=(
        ({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64"),
        ({"hidden_act": "quick_gelu"}, "hidden_act: is 'quick_gelu'"),
        ({"max_position_embeddings": 2}, "max_position_embeddings"),
    ),
)

_DISTILBERT = Case(
    hf={
        "model_type": "distilbert",
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 24,
        "sinusoidal_pos_embds": True,
    },
    vocabulary=wordpiece(BERT),
    refused=(
        ({"activation": "quick_gelu"}, "hidden_act: is 'quick_gelu'"),
        ({"n_heads": 5}, "32 is not divisible by 5"),
    ),
)


CASES = {
    "bert": _BERT,
    **{
        f"bert, {act}": _BERT._replace(
            hf={"model_type": "bert", **FEW, "hidden_act": act}, variant=True, kinked=act == "relu"
        )
        for act in ("gelu_new", "relu", "silu")
    },
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA._replace(
        hf={**_ROBERTA.hf, "model_type": "xlm-roberta"}, vocabulary=unigram(FAIRSEQ), variant=True
    ),
    "camembert": _ROBERTA._replace(
        hf={**_ROBERTA.hf, "model_type": "camembert"},
        vocabulary=unigram(FAIRSEQ),
        variant=True,
    ),
    "roberta, 2 token types": _ROBERTA._replace(
        hf={**_ROBERTA.hf, "num_hidden_layers": 1, "type_vocab_size": 2}, variant=True
    ),
    "mpnet": _MPNET,
    "distilbert": _DISTILBERT,
    "distilbert, relu": _DISTILBERT._replace(
        hf={**_DISTILBERT.hf, "n_layers": 1, "activation": "relu"}, variant=True, kinked=True
    ),
}
