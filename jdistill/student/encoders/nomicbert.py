"""NomicBERT: BERT with rotary positions and gated feed-forward, without biases in its matrices.

`config.json` has GPT-2's names in older models and BERT's names since transformers 5. Tensor names are the same in
both; queries, keys and values are one tensor.

Source: Nussbaum et al. 2024, arXiv:2402.01613, section 3; equivalent to transformers' `NomicBertModel`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal, Self

from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import Field, model_validator
from typing_extensions import override

from jdistill.config import UserError, parse
from jdistill.student.encoders.base import (
    Computing,
    Epsilon,
    HeadCount,
    HiddenSize,
    InnerSize,
    LayerCount,
    MaxLength,
    TransformerConfig,
    TypeCount,
    VocabSize,
)
from jdistill.student.encoders.hf_config import Activation, check_heads, read_rope, refuse, same_named
from jdistill.student.encoders.pre_norm import LayerOptions, RotaryEncoder, RotaryLayer
from jdistill.student.layers import lookup
from jdistill.student.masked_lm import MaskedLM
from jdistill.student.modules import LayerNorm, linear_rows, norm_rows, normal
from jdistill.student.rotary import Rope
from jdistill.student.weights import Weight

_OLD = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
}
"""GPT-2's names -> ours."""

_GATED = {"swiglu": "silu", "geglu": "gelu"}
"""`activation_function` -> activation of the gate."""

_PLAIN: dict[str, tuple[Any, ...]] = {
    "prenorm": (False,),
    "parallel_block": (False,),
    "use_rms_norm": (False,),
    "causal": (False,),
    "is_decoder": (False,),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "rotary_emb_fraction": (1, 1.0),
    "rotary_emb_interleaved": (False,),
    "rotary_emb_scale_base": (),
    "activation_function": tuple(_GATED),
    "moe_every_n_layers": (0,),
    "num_experts": (0,),
}
"""Key of the old format -> supported values, which are those of transformers' implementation."""


class NomicBertConfig(TransformerConfig):
    """Sizes of a NomicBERT, named as in the `config.json` of transformers 5, except for rotary positions."""

    model_types: ClassVar[tuple[str, ...]] = ("nomic_bert",)
    hf_prefix: ClassVar[str] = "nomic_bert."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"pooler\..*", r"cls\..*", r"classifier\..*")

    kind: Literal["nomicbert"] = "nomicbert"
    vocab_size: VocabSize = 30528
    hidden_size: HiddenSize = 768
    num_hidden_layers: LayerCount = 12
    num_attention_heads: HeadCount = 12
    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head. Default: `hidden_size / num_attention_heads`."""
    intermediate_size: InnerSize = 3072
    max_position_embeddings: MaxLength = 2048
    type_vocab_size: TypeCount = 2
    rope_theta: float = Field(default=1000.0, gt=0)
    """Rotary base."""
    hidden_act: Activation = "silu"
    """Activation of the feed-forward gate."""
    layer_norm_eps: Epsilon = 1e-12

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        check_heads(self.hidden_size, self.num_attention_heads, head_dim=self.head_dim)
        return self

    @property
    def head_width(self) -> int:
        """`head_dim`, or `hidden_size / num_attention_heads`."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    @override
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "NomicBertConfig":
        # `rotary_scaling_factor` is ignored, as transformers does.
        refuse(hf, _PLAIN, where=where)
        # Where a file has both names, the new one counts.
        given = {ours: hf[old] for old, ours in _OLD.items() if hf.get(old) is not None} | same_named(cls, hf)
        if hf.get("activation_function") is not None:
            given["hidden_act"] = _GATED[hf["activation_function"]]
        if hf.get("n_embd") is not None:
            # GPT-2's rule for a null or missing `n_inner`.
            given.setdefault("intermediate_size", 4 * hf["n_embd"])
        theta = given.get("rope_theta", cls.model_fields["rope_theta"].default)
        rope = read_rope(hf.get("rope_scaling") or hf.get("rope_parameters"), theta, where=where)
        if rope.factor != 1:
            raise UserError(f"{where}: rope_type is linear, which is not supported for NomicBERT.")
        config = parse(cls, given | {"rope_theta": rope.theta}, where=where)
        return config.model_copy(update={"head_dim": config.head_width})

    @override
    def to_hf(self) -> dict[str, Any]:
        # Transformers reads it from 5 on.
        plain = {**self.model_dump(exclude={"kind", "rope_theta"}), "head_dim": self.head_width}
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta}}
        return {"architectures": ["NomicBertModel"], "model_type": "nomic_bert", **plain, **rope}

    @override
    def weights(self) -> list[Weight]:
        tables = {"word_embeddings": "words", "token_type_embeddings": "types"}
        rows = [Weight(f"embeddings.{key}.weight", f"embeddings.{path}") for key, path in tables.items()]
        rows += norm_rows("emb_ln", "embeddings.norm")
        for i in range(self.num_hidden_layers):
            hf, ours = f"encoder.layers.{i}", f"layers.{i}"
            for part, name in enumerate(("query", "key", "value")):
                rows += linear_rows(f"{hf}.attn.Wqkv", f"{ours}.{name}", bias=False, part=(part, 3))
            rows += linear_rows(f"{hf}.attn.out_proj", f"{ours}.out", bias=False)
            # The activation is applied to fc12, not to fc11.
            for key, name in {"fc11": "up", "fc12": "gate", "fc2": "down"}.items():
                rows += linear_rows(f"{hf}.mlp.{key}", f"{ours}.{name}", bias=False)
            rows += norm_rows(f"{hf}.norm1", f"{ours}.attention_norm")
            rows += norm_rows(f"{hf}.norm2", f"{ours}.mlp_norm")
        return rows

    @override
    def masked_lm(self) -> MaskedLM:
        head = "cls.predictions"
        return MaskedLM(
            "NomicBertForMaskedLM",
            dense=f"{head}.transform.dense",
            norm=f"{head}.transform.layer_norm",
            bias=f"{head}.bias",
            decoder=f"{head}.decoder.weight",
            activation=self.hidden_act,
            epsilon=self.layer_norm_eps,
        )

    @override
    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> RotaryEncoder:
        options = LayerOptions(
            kv_heads=self.num_attention_heads,
            head_dim=self.head_width,
            activation=self.hidden_act,
            rope=Rope(self.rope_theta),
            norms="after",
        )
        norm = partial(LayerNorm, epsilon=self.layer_norm_eps)
        embeddings = Embeddings(self, computing, rngs=rngs)
        layers = [RotaryLayer(self, options, norm, computing, rngs=rngs) for _ in range(self.num_hidden_layers)]
        return RotaryEncoder(embeddings, layers, None, computing)


class Embeddings(nnx.Module):
    """Word + type embeddings, normalized."""

    def __init__(self, config: NomicBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        std, width = config.initializer_range, config.hidden_size
        self.words = nnx.Param(normal(rngs, std, config.vocab_size, width))
        self.types = nnx.Param(normal(rngs, std, config.type_vocab_size, width))
        self.norm = LayerNorm(width, config.layer_norm_eps)

    def __call__(self, ids: Int[Array, "r p"]) -> Float[Array, "r p d"]:
        """`ids [r, p] -> [r, p, d]`."""
        dtype = self.computing.dtype
        # Single texts have token type 0 throughout, so its vector is added everywhere.
        return self.norm(lookup(self.words[...], ids, dtype) + self.types[...][:1][None].astype(dtype))
