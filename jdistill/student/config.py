"""The `student:` section of a config, and the architecture it resolves to."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import jax.numpy as jnp
from pydantic import Field, model_validator

from jdistill.config import Config, PathText
from jdistill.folders.prompts import prompt_name
from jdistill.student.attention import ChosenKernel
from jdistill.student.encoders import Encoder
from jdistill.student.encoders.base import Computing
from jdistill.student.head import HeadModule
from jdistill.student.lora import LoraConfig
from jdistill.student.pooling import Pooling
from jdistill.student.pruning.config import KeepLayers
from jdistill.student.stack import Remat

Dtype = Literal["float32", "bfloat16"]
Backbone = Literal["trained", "frozen", "cached"]
SIDES: Final = ("query", "document")

MOVED_TO_PRUNE: Final = ("width", "heads", "intermediate", "vocabulary")
"""Former keys of `student:`; the resolved recipes of older runs have them as null."""


class Prompts(Config):
    """Text prepended to every query and every document."""

    query: str = ""
    """Prepended to queries."""
    document: str = ""
    """Prepended to documents."""


class GivenPrompts(Config):
    """Text prepended to every query and every document, by default as in `init`."""

    query: str | None = None
    """Prepended to queries. Default: the query prompt of `init`, if it has one. Empty string: no prompt."""
    document: str | None = None
    """Prepended to documents. Default: the document prompt of `init`, if it has one. Empty string: no prompt."""

    def resolved(self, own: Mapping[str, str]) -> Prompts:
        """The prompts to use, given those of `init` by name."""
        query, document = (own.get(prompt_name(own, side) or "", "") for side in SIDES)
        return Prompts(
            query=query if self.query is None else self.query,
            document=document if self.document is None else self.document,
        )


class Inherited(Config):
    """sentence-transformers settings of `init`, kept for the export."""

    prompts: dict[str, str] = Field(default_factory=dict)
    """Name -> text prepended to inputs."""
    default_prompt_name: str | None = None
    """Prompt used when a call names none."""
    similarity_fn_name: str | None = None
    """How vectors are compared; None: cosine, or dot for sparse vectors."""


class StudentConfig(Config):
    """The model to train. Start from a trained model with `init`, or at random with `encoder` and `tokenizer`."""

    init: PathText | None = None
    """Folder or Hugging Face id of the model to start from: its weights, its tokenizer, and the defaults below."""
    revision: str | None = None
    """Branch, tag or commit of `init` on the hub."""
    keep_layers: KeepLayers | None = None
    """Layers of `init` to keep, counted from 0, in the order they run; or a number of evenly spaced layers that
    includes the first and the last: 3 of 6 are 0, 2, 5. Default: all."""
    encoder: Encoder | None = None
    """The architecture; optional with `init`. `kind: static` takes the word embeddings of `init` as its table."""
    tokenizer: PathText | None = None
    """Folder or Hugging Face id of the tokenizer. Default: that of `init`."""
    check_tokenizer: bool = True
    """Before training, check on a few dozen difficult texts that the tokenizer gives the same tokens as transformers
    does for the same folder. Skipped if transformers is not installed."""
    pooling: list[Pooling] | Pooling | None = None
    """How token vectors become one vector; several poolings are concatenated. Default: as in `init`, else mean. A
    pooling that `init` has with the same options keeps its parameters; others are initialised as documented."""
    include_prompt: bool | None = None
    """Whether modes such as mean pool the tokens of the prompt, including [CLS] before it. Texts without a prompt are
    always pooled whole, and poolings with parameters see all tokens. Default: as in `init`, else true."""
    head: list[HeadModule] | None = None
    """Modules after the pooling, such as `[{kind: dense, out_features: 3072}, {kind: dense, out_features: 768}]`, with
    random weights. Default: the head of `init` with its weights, else only what `normalize` adds."""
    normalize: bool | None = None
    """Whether vectors have unit length, by a `normalize` at the end of the head. Default: as `head` says, else as in
    `init`, else true; false for poolings that give a weight for each token of the vocabulary."""
    max_length: int | None = Field(default=None, ge=3)
    """Texts are truncated to this many tokens, special tokens included. Default: as in `init`."""
    prompts: GivenPrompts = GivenPrompts()
    """Text prepended to queries and to documents. Default: the prompts of `init`; an empty string for none."""
    projection: Literal["auto", "linear", "none"] = "auto"
    """Map from the student's space to each teacher's during training. `auto`: linear where the widths differ."""
    backbone: Backbone = "trained"
    """How training treats the encoder. `trained`: it is updated. `frozen`: only pooling, head and projections are
    trained, and no encoder activations are kept. `cached`: as `frozen`, but the hidden states of every training text
    are computed once before the first step and stored on disk, `width` numbers of `dtype` per token; each step then
    runs the head alone, and later runs with the same encoder and texts reuse them. `cached` excludes dropout, packing,
    folding, and losses on earlier layers."""
    lora: LoraConfig | None = None
    """Freeze the encoder and train low-rank updates (LoRA) of its matrices; `{}` takes the defaults. Loading or
    exporting merges them, so the result is an ordinary model."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout rate of embeddings, attention weights and hidden states during training."""
    dtype: Dtype = "float32"
    """Dtype of the encoder's computation; parameters, pooling and losses are float32. Use `bfloat16` on accelerators
    only."""
    attention: ChosenKernel = "auto"
    """Attention implementation; changes speed and memory only. `auto`: `splash` on TPU for long rows, `cudnn` on CUDA
    in bfloat16, else `xla`. With dropout it is always `xla`."""
    remat: Remat = "none"
    """What the backward pass recomputes to save memory: `products` keeps the results of matrix products, `everything`
    keeps only each layer's input. More `train.microbatches` save as much memory and are usually faster."""
    scan_layers: bool = False
    """Compile repeated layers once, with `jax.lax.scan`. Compiles only slightly faster, and needs more memory."""

    @model_validator(mode="before")
    @classmethod
    def _leaves_pruning_to_its_command(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        for name in MOVED_TO_PRUNE:
            if content.get(name) is not None:
                raise ValueError(
                    f"'{name}' is now set in the section 'prune', with the model as prune.init, and `jdistill prune` "
                    "writes the pruned model to prune.output, the folder to set as student.init."
                )
        # Nulls, which older resolved recipes have.
        return {name: value for name, value in content.items() if name not in MOVED_TO_PRUNE}

    @model_validator(mode="after")
    def _has_a_beginning(self) -> "StudentConfig":
        if self.init is None and (self.encoder is None or self.tokenizer is None):
            raise ValueError(
                "set 'init' (a model to start from), or both 'encoder' and 'tokenizer' to start from random weights."
            )
        if self.init is None and self.keep_layers is not None:
            raise ValueError(
                "'keep_layers' selects layers of 'init', which is not set. Set num_hidden_layers under 'encoder'."
            )
        if self.backbone == "cached" and (self.lora is not None or self.dropout):
            changing = f"dropout={self.dropout}" if self.lora is None else "lora"
            raise ValueError(
                f"'backbone: cached' computes the encoder's hidden states once, but with {changing} they change from "
                f"step to step. Remove {changing.partition('=')[0]}, or set backbone: frozen."
            )
        return self

    @property
    def poolings(self) -> list[Pooling]:
        """Those that `pooling` lists; none where it is left out."""
        if self.pooling is None:
            return []
        return self.pooling if isinstance(self.pooling, list) else [self.pooling]


class Architecture(Config):
    """A student without its weights, with all defaults resolved. Written next to every checkpoint."""

    encoder: Encoder
    """Maps tokens to vectors."""
    pooling: list[Pooling]
    """Reduces a text's token vectors to one."""
    include_prompt: bool = True
    """Whether modes such as mean pool the tokens of the prompt."""
    head: list[HeadModule]
    """Modules after the pooling."""
    max_length: int | None
    """Texts are truncated to this many tokens, special tokens included; None: never."""
    prompts: Prompts
    """Text prepended to queries and to documents."""
    inherited: Inherited = Inherited()
    """Settings of `init`, for the export."""
    projections: dict[str, int]
    """Teacher -> its width, for the teachers that the student is projected to."""
    dropout: float
    """Dropout rate during training."""
    dtype: Dtype
    """Dtype of the encoder's computation."""
    attention: ChosenKernel = "auto"
    """Attention implementation."""
    remat: Remat = "none"
    """What the backward pass recomputes."""
    scan_layers: bool = False
    """Whether repeated layers run in `jax.lax.scan`."""
    backbone: Backbone = "trained"
    """How training treats the encoder."""
    lora: LoraConfig | None = None
    """Low-rank updates of the encoder's matrices; None: there are none."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions that match the full paths of parameters that are not trained."""
        return ("encoder/.*",) if self.backbone != "trained" or self.lora is not None else ()

    @property
    def computing(self) -> Computing:
        """How the encoder's module computes."""
        return Computing(jnp.dtype(self.dtype), self.dropout, self.attention, self.remat, self.scan_layers)
