"""NomicBERT: BERT with rotary positions and gated feed-forward, without biases in its matrices.

`config.json` has GPT-2's names in older models and BERT's names since transformers 5. Tensor names are the same in
both; queries, keys and values are one tensor.

Source: Nussbaum et al. 2024, arXiv:2402.01613, section 3; equivalent to transformers' `NomicBertModel`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field, model_validator

from jdistill.config import UserError, parse
from jdistill.student.attention import attention
from jdistill.student.encoders.base import Computing, EncoderConfig
from jdistill.student.encoders.hf_config import Activation, check_heads, read_rope, refuse, same_named
from jdistill.student.layers import dropout, gated, keys, lookup
from jdistill.student.modules import LayerNorm, Linear, linear_rows, norm_rows, normal
from jdistill.student.packing import Rows
from jdistill.student.rotary import RopeTables, rotate, turn
from jdistill.student.stack import run_layers
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


class NomicBertConfig(EncoderConfig):
    """Sizes of a NomicBERT, named as in the `config.json` of transformers 5, except for rotary positions."""

    hf_prefix: ClassVar[str] = "nomic_bert."
    hf_ignored: ClassVar[tuple[str, ...]] = (r"pooler\..*", r"cls\..*", r"classifier\..*")

    kind: Literal["nomicbert"] = "nomicbert"
    vocab_size: int = Field(default=30528, ge=1)
    """Vocabulary size."""
    hidden_size: int = Field(default=768, ge=1)
    """Hidden size."""
    num_hidden_layers: int = Field(default=12, ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(default=12, ge=1)
    """Attention heads."""
    head_dim: int | None = Field(default=None, ge=2)
    """Width of a head. Default: `hidden_size / num_attention_heads`."""
    intermediate_size: int = Field(default=3072, ge=1)
    """Width of the feed-forward layer."""
    max_position_embeddings: int = Field(default=2048, ge=1)
    """Maximum input length in tokens."""
    type_vocab_size: int = Field(default=2, ge=1)
    """Rows of the token type table; single texts use the first."""
    rope_theta: float = Field(default=1000.0, gt=0)
    """Rotary base."""
    hidden_act: Activation = "silu"
    """Activation of the feed-forward gate."""
    layer_norm_eps: float = Field(default=1e-12, gt=0)
    """Epsilon of layer norms."""
    initializer_range: float = Field(default=0.02, ge=0)
    """Standard deviation of randomly initialised weights."""

    @model_validator(mode="after")
    def _heads_fit(self) -> "NomicBertConfig":
        check_heads(self.hidden_size, self.num_attention_heads, head_dim=self.head_dim)
        return self

    @property
    def width(self) -> int:
        """`hidden_size`."""
        return self.hidden_size

    @property
    def depth(self) -> int:
        """`num_hidden_layers`."""
        return self.num_hidden_layers

    @property
    def max_positions(self) -> int | None:
        """`max_position_embeddings`."""
        return self.max_position_embeddings

    @property
    def head_width(self) -> int:
        """`head_dim`, or `hidden_size / num_attention_heads`."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def from_hf(cls, hf: Mapping[str, Any], *, where: str) -> "NomicBertConfig":
        """Ignores dropout rates; set `student.dropout`.

        Also ignores `rotary_scaling_factor`, as transformers does.
        """
        refuse(hf, _PLAIN, where=where)
        given = {ours: hf[old] for old, ours in _OLD.items() if hf.get(old) is not None} | same_named(cls, hf)
        if hf.get("activation_function") is not None:
            given["hidden_act"] = _GATED[hf["activation_function"]]
        if hf.get("n_embd") is not None:
            given.setdefault("intermediate_size", 4 * hf["n_embd"])
        theta = given.get("rope_theta", cls.model_fields["rope_theta"].default)
        rope = read_rope(hf.get("rope_scaling") or hf.get("rope_parameters"), theta, where=where)
        if rope.factor != 1:
            raise UserError(f"{where}: rope_type is linear, which is not supported for NomicBERT.")
        config = parse(cls, given | {"rope_theta": rope.theta}, where=where)
        return config.model_copy(update={"head_dim": config.head_width})

    def to_hf(self) -> dict[str, Any]:
        """`config.json` of a `NomicBertModel`, which requires transformers 5."""
        plain = {**self.model_dump(exclude={"kind", "rope_theta"}), "head_dim": self.head_width}
        rope = {"rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta}}
        return {"architectures": ["NomicBertModel"], "model_type": "nomic_bert", **plain, **rope}

    def weights(self) -> list[Weight]:
        """Embeddings, then layer by layer."""
        tables = {"word_embeddings": "words", "token_type_embeddings": "types"}
        rows = [Weight(f"embeddings.{key}.weight", f"embeddings.{path}") for key, path in tables.items()]
        rows += norm_rows("emb_ln", "embeddings.norm")
        for i in range(self.num_hidden_layers):
            hf, ours = f"encoder.layers.{i}", f"layers.{i}"
            for part, name in enumerate(("query", "key", "value")):
                rows += linear_rows(f"{hf}.attn.Wqkv", f"{ours}.{name}", bias=False, part=(part, 3))
            rows += linear_rows(f"{hf}.attn.out_proj", f"{ours}.out", bias=False)
            for key, name in {"fc11": "up", "fc12": "gate", "fc2": "down"}.items():
                rows += linear_rows(f"{hf}.mlp.{key}", f"{ours}.{name}", bias=False)
            rows += norm_rows(f"{hf}.norm1", f"{ours}.attention_norm")
            rows += norm_rows(f"{hf}.norm2", f"{ours}.mlp_norm")
        return rows

    def make_module(self, computing: Computing, *, rngs: nnx.Rngs) -> "NomicBert":
        """A `NomicBert`."""
        return NomicBert(self, computing, rngs=rngs)


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
        return self.norm(lookup(self.words[...], ids, dtype) + self.types[...][:1][None].astype(dtype))


class Layer(nnx.Module):
    """Attention and gated feed-forward with post-norm residuals."""

    def __init__(self, config: NomicBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim, self.activation = config.head_width, config.hidden_act
        width, inner, std = config.hidden_size, config.intermediate_size, config.initializer_range
        heads = config.num_attention_heads * self.head_dim
        self.query, self.key, self.value = (Linear(width, heads, std=std, rngs=rngs, bias=False) for _ in range(3))
        self.out = Linear(heads, width, std=std, rngs=rngs, bias=False)
        self.gate, self.up = (Linear(width, inner, std=std, rngs=rngs, bias=False) for _ in range(2))
        self.down = Linear(inner, width, std=std, rngs=rngs, bias=False)
        self.attention_norm, self.mlp_norm = (LayerNorm(width, config.layer_norm_eps) for _ in range(2))

    def __call__(
        self,
        x: Float[Array, "r p d"],
        places: Bool[Array, "r p"] | Int[Array, "r p"],
        by: RopeTables,
        *,
        dropout_key: Array | None,
    ) -> Float[Array, "r p d"]:
        """The same shape; tokens attend only to tokens of the same text."""
        weights_key, attended_key, output_key = keys(dropout_key, 3)
        rate = self.computing.dropout
        q, k, v = (part(x).reshape(*x.shape[:2], -1, self.head_dim) for part in (self.query, self.key, self.value))
        attended = attention(
            rotate(q, by),
            rotate(k, by),
            v,
            places,
            dropout_rate=rate,
            dropout_key=weights_key,
            kernel=self.computing.attention,
        ).reshape(*x.shape[:2], -1)
        x = self.attention_norm(x + dropout(self.out(attended), rate, attended_key))
        inner = gated(self.gate(x), self.up(x), self.activation)
        return self.mlp_norm(x + dropout(self.down(inner), rate, output_key))


class NomicBert(nnx.Module):
    """`Rows [r, p] -> hidden [r, p, d]` after each of the requested layers."""

    def __init__(self, config: NomicBertConfig, computing: Computing, *, rngs: nnx.Rngs) -> None:
        self.computing = computing
        self.head_dim, self.theta = config.head_width, config.rope_theta
        self.embeddings = Embeddings(config, computing, rngs=rngs)
        self.layers = nnx.Dict({str(i): Layer(config, computing, rngs=rngs) for i in range(config.num_hidden_layers)})

    def __call__(
        self, rows: Rows, *, layers: Sequence[int], dropout_key: Array | None = None
    ) -> dict[int, Float[Array, "r p d"]]:
        """Hidden states after each of `layers`; 0 is the embeddings."""
        depth = len(self.layers)
        first, *rest = keys(dropout_key, 1 + depth)
        by = turn(rows.positions, self.head_dim, self.theta)
        return run_layers(
            [self.layers[str(i)] for i in range(depth)],
            lambda layer, x, key: layer(x, rows.places, by, dropout_key=key),
            dropout(self.embeddings(rows.ids), self.computing.dropout, first),
            rest,
            wanted=layers,
            remat=self.computing.remat,
            scan=self.computing.scan,
        )
