"""What the first module of a folder has, whether a Transformer or a StaticEmbedding."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jdistill.student.encoders import EncoderConfig
from jdistill.student.tokenizer import Tokenizer


class First(NamedTuple):
    """Encoder and tokenizer, as `Pretrained` describes them."""

    encoder: EncoderConfig
    tensors: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    max_length: int | None
