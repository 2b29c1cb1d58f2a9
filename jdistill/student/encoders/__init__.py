"""Encoders, one file each: config, NNX module and weight table. To add one, add a file and a line here."""

from typing import Annotated

from pydantic import Field

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.encoders.bert import BertConfig
from jdistill.student.encoders.distilbert import DistilBertConfig
from jdistill.student.encoders.eurobert import EuroBertConfig
from jdistill.student.encoders.gemma3 import Gemma3Config
from jdistill.student.encoders.modernbert import ModernBertConfig
from jdistill.student.encoders.mpnet import MPNetConfig
from jdistill.student.encoders.nomicbert import NomicBertConfig
from jdistill.student.encoders.qwen3 import Qwen3Config
from jdistill.student.encoders.roberta import MODELS, RobertaConfig
from jdistill.student.encoders.static import StaticConfig

Encoder = Annotated[
    BertConfig
    | DistilBertConfig
    | EuroBertConfig
    | Gemma3Config
    | MPNetConfig
    | ModernBertConfig
    | NomicBertConfig
    | Qwen3Config
    | RobertaConfig
    | StaticConfig,
    Field(discriminator="kind"),
]

MODEL_TYPES: dict[str, type[EncoderConfig]] = {
    "bert": BertConfig,
    "distilbert": DistilBertConfig,
    "eurobert": EuroBertConfig,
    "gemma3_text": Gemma3Config,
    "modernbert": ModernBertConfig,
    "mpnet": MPNetConfig,
    "nomic_bert": NomicBertConfig,
    "qwen3": Qwen3Config,
    **dict.fromkeys(MODELS, RobertaConfig),
}
"""`model_type` of a Hugging Face `config.json` -> architecture."""

__all__ = [
    "MODEL_TYPES",
    "BertConfig",
    "DistilBertConfig",
    "Encoder",
    "EncoderConfig",
    "EuroBertConfig",
    "Gemma3Config",
    "MPNetConfig",
    "ModernBertConfig",
    "NomicBertConfig",
    "Qwen3Config",
    "RobertaConfig",
    "StaticConfig",
]
