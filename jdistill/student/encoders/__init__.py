"""Encoders, one file each: configuration, NNX module and weight table. A new one is a file and a line here."""

from typing import Annotated

from pydantic import Field

from jdistill.student.encoders.base import EncoderConfig
from jdistill.student.encoders.bert import BertConfig
from jdistill.student.encoders.static import StaticConfig

Encoder = Annotated[BertConfig | StaticConfig, Field(discriminator="kind")]

MODEL_TYPES: dict[str, type[EncoderConfig]] = {"bert": BertConfig}
"""`model_type` of a Hugging Face `config.json` -> architecture."""

__all__ = ["MODEL_TYPES", "BertConfig", "Encoder", "EncoderConfig", "StaticConfig"]
