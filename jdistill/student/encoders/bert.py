"""BERT: post-norm transformer encoder with absolute positions.

Source: Devlin et al. 2019, arXiv:1810.04805; equivalent to transformers' `BertModel`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from flax import nnx
from typing_extensions import override

from jdistill.config import parse
from jdistill.student.encoders.base import Computing, Epsilon, TypeCount, VocabSize, model_size
from jdistill.student.encoders.hf_config import BASE, refuse, same_named
from jdistill.student.encoders.post_norm import BERT_EMBEDDINGS, BERT_LAYER, PostNorm, PostNormConfig, table
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.weights import Weight


class BertConfig(PostNormConfig):
    """Sizes of a BERT, named as in Hugging Face's `config.json`."""

    model_types: ClassVar[tuple[str, ...]] = ("bert",)
    # Turc et al. 2019, arXiv:1908.08962, table 1; Wang et al. 2020, arXiv:2002.10957, and its 6-layer version.
    sizes: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "tiny": model_size(layers=2, width=128, intermediate=512, heads=2),
        "mini": model_size(layers=4, width=256, intermediate=1024, heads=4),
        "small": model_size(layers=4, width=512, intermediate=2048, heads=8),
        "medium": model_size(layers=8, width=512, intermediate=2048, heads=8),
        "base": model_size(layers=12, width=768, intermediate=3072, heads=12),
        "minilm-l6": model_size(layers=6, width=384, intermediate=1536, heads=12),
        "minilm-l12": model_size(layers=12, width=384, intermediate=1536, heads=12),
    }
    hf_prefix: ClassVar[str] = "bert."
    # Buffers that older releases of transformers saved, and heads; `masked_lm` reads its own.
    hf_ignored: ClassVar[tuple[str, ...]] = (
        r"embeddings\.(position_ids|token_type_ids)",
        r"(pooler|cls|classifier|qa_outputs)\..*",
    )

    kind: Literal["bert"] = "bert"
    vocab_size: VocabSize = 30522
    type_vocab_size: TypeCount = 2
    layer_norm_eps: Epsilon = 1e-12

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "BertConfig":
        refuse(hf, {"position_embedding_type": ("absolute",), "is_decoder": (False,)}, where=where)
        return parse(cls, {**BASE, **same_named(cls, hf)}, where=where)

    @override
    def to_hf(self) -> dict[str, Any]:
        return {"architectures": ["BertModel"], "model_type": "bert", **self.model_dump(exclude={"kind"})}

    @override
    def weights(self) -> list[Weight]:
        return table(BERT_EMBEDDINGS, self.num_hidden_layers, "encoder.layer.{}", BERT_LAYER)

    @override
    def masked_lm(self) -> MaskedLM:
        head = "cls.predictions"
        return MaskedLM(
            "BertForMaskedLM",
            dense=f"{head}.transform.dense",
            norm=f"{head}.transform.LayerNorm",
            bias=f"{head}.bias",
            decoder=f"{head}.decoder.weight",
            activation=self.hidden_act,
            epsilon=self.layer_norm_eps,
        )

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> PostNorm:
        return PostNorm(self, computing, epsilon=self.layer_norm_eps, types=self.type_vocab_size, rngs=rngs)
