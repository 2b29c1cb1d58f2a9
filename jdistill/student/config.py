"""What a user writes under `student:`, and what comes of it: the resolved architecture."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

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
from jdistill.student.pruning.config import Cuts, Vocabulary, Width
from jdistill.student.stack import Remat

Dtype = Literal["float32", "bfloat16"]
Backbone = Literal["trained", "frozen", "cached"]
SIDES: Final = ("query", "document")


class Prompts(Config):
    """What is put in front of every text of a side."""

    query: str = ""
    """In front of queries."""
    document: str = ""
    """In front of documents."""


class GivenPrompts(Config):
    """What is put in front of every text of a side, where it is not what `init` says."""

    query: str | None = None
    """In front of queries; null: as the prompts of `init` say, else nothing. Empty: nothing."""
    document: str | None = None
    """In front of documents; null: as the prompts of `init` say, else nothing. Empty: nothing."""

    def resolved(self, own: Mapping[str, str]) -> Prompts:
        """Both sides' prompts, given those of `init` by name."""
        query, document = (own.get(prompt_name(own, side) or "", "") for side in SIDES)
        return Prompts(
            query=query if self.query is None else self.query,
            document=document if self.document is None else self.document,
        )


class Inherited(Config):
    """What `init` says of its use with sentence-transformers, kept in an export."""

    prompts: dict[str, str] = Field(default_factory=dict)
    """Name -> what is put in front of texts."""
    default_prompt_name: str | None = None
    """The prompt of texts for which none is named."""
    similarity_fn_name: str | None = None
    """How vectors are compared; None: cosine, or dot where they are sparse."""


class StudentConfig(Config):
    """The model that learns. Start from a trained one with `init`, or at random with `encoder` and `tokenizer`."""

    init: PathText | None = None
    """Folder or Hugging Face id of the model to start from: weights, tokenizer, and whatever is left out below."""
    revision: str | None = None
    """Branch, tag or commit of `init` on the hub."""
    keep_layers: list[Annotated[int, Field(ge=0)]] | Annotated[int, Field(ge=1)] | None = None
    """Layers of `init` to keep, counted from 0, in the order they are to run in; or how many, evenly spaced with the
    first and the last among them: 3 of 6 are 0, 2, 5. Left out: all."""
    width: Width | None = None
    """A narrower vector per token, such as `{to: 256}`. Left out: as in `init`."""
    heads: int | None = Field(default=None, ge=1)
    """Attention heads to keep in each layer, those that add most to its output, where heads have a width of their own,
    as in NomicBERT, EuroBERT, Qwen3 and Gemma 3. Where they share the vectors' width, as in BERT, `width` says how many
    there are. Left out: all, or all that fit the width."""
    intermediate: int | None = Field(default=None, ge=1)
    """Neurons to keep in the feed-forward part of each layer, those that add most to its output. Left out: all."""
    vocabulary: Vocabulary | None = None
    """A smaller vocabulary, such as `{size: 8000}`, with the tokenizer rebuilt to match. Left out: as in `init`."""
    encoder: Encoder | None = None
    """The architecture. May be left out with `init`; `kind: static` makes its word embeddings the student's table."""
    tokenizer: PathText | None = None
    """Folder or Hugging Face id of the tokenizer; left out: that of `init`."""
    check_tokenizer: bool = True
    """Whether a few dozen awkward texts must have the tokens that transformers makes of the tokenizer's folder before
    anything is trained. Nothing is compared where transformers is not installed."""
    pooling: list[Pooling] | Pooling | None = None
    """How token vectors become one; several are concatenated. Left out: as in `init`, else mean. One that `init` has
    with the same options keeps its parameters; others start as their documentation says."""
    include_prompt: bool | None = None
    """Whether pooling by a mode, such as mean, sees the tokens of the prompt, [CLS] in front of it among them; texts
    without a prompt are pooled whole. Left out: as in `init`, else true. Poolings with parameters see all tokens."""
    head: list[HeadModule] | None = None
    """What follows the pooling, such as `[{kind: dense, out_features: 3072}, {kind: dense, out_features: 768}]`, with
    random weights. Left out: that of `init` with its weights, else nothing but what `normalize` says."""
    normalize: bool | None = None
    """Whether vectors have unit length, by a `normalize` at the end of the head. Left out: as `head` says, else as in
    `init`, else true, but false for a pooling that gives a number for each token of the vocabulary."""
    max_length: int | None = Field(default=None, ge=3)
    """Tokens after which texts are cut, special ones included. Left out: as in `init`."""
    prompts: GivenPrompts = GivenPrompts()
    """Per side. Left out: those of `init`; an empty text for none."""
    projection: Literal["auto", "linear", "none"] = "auto"
    """From the student's to each teacher's space while training. `auto`: a linear one where the widths differ."""
    backbone: Backbone = "trained"
    """What training does to the encoder. `frozen`: nothing. Only what stands behind it learns, such as the head and
    projections, and no activations of the encoder are kept. `cached`: nothing as well, and what the encoder makes of
    every training text is computed once, before the first step, and kept on disk in the store, `width` numbers of
    `dtype` for each token; a step then runs the head alone. A second run with the same encoder and texts finds them
    there. Not with dropout, packing, folding, or losses that read earlier layers."""
    lora: LoraConfig | None = None
    """Train additions of low rank to matrices of the encoder, whose own weights are frozen; `{}` takes the defaults.
    What is loaded or exported has them merged, and is an ordinary model."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of embeddings, attention weights and hidden values that are dropped while training."""
    dtype: Dtype = "float32"
    """In which the encoder computes; parameters, pooling and losses are float32. `bfloat16` is for accelerators."""
    attention: ChosenKernel = "auto"
    """How attention is computed; changes speed and memory only. `auto`: `splash` on TPU for long rows, `cudnn` on CUDA
    in bfloat16, else `xla`, which is also what computes attention with dropout."""
    remat: Remat = "none"
    """What the backward pass computes again to save memory: `products` keeps what matrix products give, `everything`
    keeps each layer's input. More `train.microbatches` save as much and are faster as a rule."""
    scan_layers: bool = False
    """Compile one of the layers that repeat instead of all. Compiles little faster, and needs more memory."""

    @model_validator(mode="after")
    def _has_a_beginning(self) -> "StudentConfig":
        if self.init is None and (self.encoder is None or self.tokenizer is None):
            raise ValueError(
                "give 'init' (a model to start from), or both 'encoder' and 'tokenizer' to start from random weights."
            )
        if self.init is None and self.keep_layers is not None:
            raise ValueError("'keep_layers' chooses layers of 'init', which is missing. Set num_hidden_layers instead.")
        cut = [name for name in Cuts._fields if getattr(self, name) is not None]
        if self.init is None and cut:
            raise ValueError(
                f"'{cut[0]}' makes 'init' smaller, which is missing. Set sizes under 'encoder' instead, or give a "
                "smaller 'tokenizer'."
            )
        if self.vocabulary is not None and self.tokenizer is not None:
            raise ValueError(
                "'vocabulary' rebuilds the tokenizer of 'init', but 'tokenizer' is another. Drop one of them."
            )
        if self.backbone == "cached" and (self.lora is not None or self.dropout):
            changing = f"dropout={self.dropout}" if self.lora is None else "lora"
            raise ValueError(
                f"'backbone: cached' computes the encoder's hidden states once, but with {changing} they change from "
                "step to step. Leave it out, or set backbone: frozen."
            )
        return self

    @property
    def cuts(self) -> Cuts:
        """What is made smaller by looking at training texts."""
        return Cuts(self.width, self.heads, self.intermediate, self.vocabulary)


class Architecture(Config):
    """A student without its weights, everything resolved. Written beside every checkpoint."""

    encoder: Encoder
    """Turns tokens into vectors."""
    pooling: list[Pooling]
    """Turns a text's vectors into one."""
    include_prompt: bool = True
    """Whether pooling by a mode sees the tokens of the prompt."""
    head: list[HeadModule]
    """What follows the pooling."""
    max_length: int | None
    """Tokens after which texts are cut, special ones included; None: never."""
    prompts: Prompts
    """Per side."""
    inherited: Inherited = Inherited()
    """From `init`, for its export."""
    projections: dict[str, int]
    """Teacher -> its width, for the teachers that the student is projected to."""
    dropout: float
    """Rate while training."""
    dtype: Dtype
    """In which the encoder computes."""
    attention: ChosenKernel = "auto"
    """How attention is computed."""
    remat: Remat = "none"
    """What the backward pass computes again."""
    scan_layers: bool = False
    """Whether layers that repeat are scanned."""
    backbone: Backbone = "trained"
    """What training does to the encoder."""
    lora: LoraConfig | None = None
    """Additions of low rank to matrices of the encoder; None: there are none."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Regular expressions of whole paths of parameters that training leaves as they are."""
        return ("encoder/.*",) if self.backbone != "trained" or self.lora is not None else ()

    @property
    def computing(self) -> Computing:
        """What the encoder's module is told."""
        return Computing(jnp.dtype(self.dtype), self.dropout, self.attention, self.remat, self.scan_layers)
