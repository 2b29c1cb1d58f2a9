"""Training losses: each a pure function on arrays, and a configuration that calls it on a View.

To add one, write its file, add its class to `Loss`, and give it a row in tests/losses/cases.py.
"""

from typing import Annotated

from pydantic import Field

from jdistill.losses.base import LossConfig
from jdistill.losses.embedding import (
    EmbedCosine,
    EmbedKL,
    EmbedL2,
    EmbedMSE,
    embed_cosine,
    embed_kl,
    embed_l2,
    embed_mse,
)
from jdistill.losses.info_nce import InfoNCE, info_nce
from jdistill.losses.score_zscore import ScoreZscore, zscores

Loss = Annotated[
    EmbedCosine | EmbedL2 | EmbedMSE | EmbedKL | InfoNCE | ScoreZscore,
    Field(discriminator="kind"),
]
"""Any loss, told apart by its `kind`."""

__all__ = [
    "EmbedCosine",
    "EmbedKL",
    "EmbedL2",
    "EmbedMSE",
    "InfoNCE",
    "Loss",
    "LossConfig",
    "ScoreZscore",
    "embed_cosine",
    "embed_kl",
    "embed_l2",
    "embed_mse",
    "info_nce",
    "zscores",
]
