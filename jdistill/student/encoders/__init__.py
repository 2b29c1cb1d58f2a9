"""Encoders, one file each: config, weight table, and what its module does unlike others.

To add one, add a file, import its config here, and list it in `ENCODERS`.
"""

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from jdistill.config import UserError
from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.encoders.bert import BertConfig
from jdistill.student.encoders.distilbert import DistilBertConfig
from jdistill.student.encoders.eurobert import EuroBertConfig
from jdistill.student.encoders.gemma3 import Gemma3Config
from jdistill.student.encoders.modernbert import ModernBertConfig
from jdistill.student.encoders.mpnet import MPNetConfig
from jdistill.student.encoders.nomicbert import NomicBertConfig
from jdistill.student.encoders.qwen3 import Qwen3Config
from jdistill.student.encoders.roberta import RobertaConfig
from jdistill.student.encoders.static import StaticConfig
from jdistill.student.masked_lm import MaskedLM

ENCODERS: tuple[type[EncoderConfig], ...] = (
    BertConfig,
    DistilBertConfig,
    EuroBertConfig,
    Gemma3Config,
    ModernBertConfig,
    MPNetConfig,
    NomicBertConfig,
    Qwen3Config,
    RobertaConfig,
    StaticConfig,
)

if TYPE_CHECKING:  # which cannot read a union made of a tuple
    Encoder = EncoderConfig
else:
    Encoder = Annotated[reduce(or_, ENCODERS), Field(discriminator="kind")]

MODEL_TYPES = {name: encoder for encoder in ENCODERS for name in encoder.model_types}
"""`model_type` of a Hugging Face `config.json` -> architecture."""

# Read from the `Literal` of `kind`, since a RoBERTa has three.
MASKED_LM_KINDS = tuple(
    kind
    for encoder in ENCODERS
    if encoder.masked_lm is not EncoderConfig.masked_lm
    for kind in get_args(encoder.model_fields["kind"].annotation)
)
"""Kinds of encoders that are pretrained as masked language models."""


def masked_lm(encoder: EncoderConfig, *, where: str) -> MaskedLM:
    """The masked language model head of an encoder.

    Raises:
      UserError: if encoders of this kind have none.
    """
    head = encoder.masked_lm()
    if head is None:
        raise UserError(
            f"{where}: needs the head of a masked language model, which an encoder of kind '{encoder.kind}' does not "
            f"have. Choose another pooling, or an encoder of kind {', '.join(MASKED_LM_KINDS)}."
        )
    return head
