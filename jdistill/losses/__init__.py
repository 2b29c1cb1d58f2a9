"""Training losses: each is a pure function on arrays, and a config class that calls it on a LossInputs.

To add one, write its file, add its class to the table in basic.py, and add a row to tests/losses/cases.
"""

from typing import Annotated

from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.basic import OUTSIDE, LeafLoss, LeafLosses
from jdistill.losses.blocks import SINGLE_DEVICE
from jdistill.losses.contrast.false_negatives import (
    Limit,
    StudentFilter,
    TeacherFilter,
    TextFilter,
    guided,
    same_text,
    self_guided,
)
from jdistill.losses.contrast.info_nce import InfoNCE, info_nce
from jdistill.losses.contrast.mega_batch_margin import MegaBatchMargin, mega_batch_margin
from jdistill.losses.contrast.sigmoid import Sigmoid, sigmoid
from jdistill.losses.contrast.teacher_info_nce import TeacherInfoNCE, teacher_info_nce
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
from jdistill.losses.hidden import Hidden
from jdistill.losses.labels.angle import AnglE, angle
from jdistill.losses.labels.batch_triplet import BatchTriplet, batch_triplet
from jdistill.losses.labels.contrastive import Contrastive, OnlineContrastive, contrastive, online_contrastive
from jdistill.losses.labels.cosent import CoSENT, cosent
from jdistill.losses.labels.cosine_similarity import CosineSimilarity, cosine_similarity
from jdistill.losses.labels.label_softmax import LabelSoftmax, label_softmax
from jdistill.losses.labels.triplet import Triplet, triplet
from jdistill.losses.nested.adaptive_layer import AdaptiveLayer
from jdistill.losses.nested.matryoshka import Matryoshka
from jdistill.losses.regularise.sparsity import L1, Flops, flops, l1
from jdistill.losses.regularise.spread_out import SpreadOut, spread_out
from jdistill.losses.scores.kl import ScoreKL, score_kl
from jdistill.losses.scores.listwise import listwise_kl
from jdistill.losses.scores.m3_kd import M3KD, m3_kd
from jdistill.losses.scores.margin_mse import ScoreMarginMSE, score_margin_mse
from jdistill.losses.scores.mse import ScoreMSE, score_mse
from jdistill.losses.scores.rank import Comparisons, ScoreRank, draw_comparisons, score_rank
from jdistill.losses.scores.zscore import ScoreZscore, score_zscore

Loss = Annotated[LeafLosses | Matryoshka | AdaptiveLayer | LossConfig, OUTSIDE]
"""Any loss, discriminated by its `kind`."""

__all__ = [
    "L1",
    "M3KD",
    "SINGLE_DEVICE",
    "AdaptiveLayer",
    "AnglE",
    "BatchTriplet",
    "CoSENT",
    "Comparisons",
    "Contrastive",
    "CosineSimilarity",
    "EmbedCosine",
    "EmbedKL",
    "EmbedL2",
    "EmbedMSE",
    "Flops",
    "Hidden",
    "InfoNCE",
    "LabelSoftmax",
    "LeafLoss",
    "Limit",
    "Loss",
    "LossConfig",
    "Matryoshka",
    "MegaBatchMargin",
    "Needs",
    "OnlineContrastive",
    "ScoreKL",
    "ScoreMSE",
    "ScoreMarginMSE",
    "ScoreRank",
    "ScoreZscore",
    "Sigmoid",
    "SpreadOut",
    "StudentFilter",
    "TeacherFilter",
    "TeacherInfoNCE",
    "TextFilter",
    "Triplet",
    "angle",
    "batch_triplet",
    "contrastive",
    "cosent",
    "cosine_similarity",
    "draw_comparisons",
    "embed_cosine",
    "embed_kl",
    "embed_l2",
    "embed_mse",
    "flops",
    "guided",
    "info_nce",
    "l1",
    "label_softmax",
    "listwise_kl",
    "m3_kd",
    "mega_batch_margin",
    "online_contrastive",
    "same_text",
    "score_kl",
    "score_margin_mse",
    "score_mse",
    "score_rank",
    "score_zscore",
    "self_guided",
    "sigmoid",
    "spread_out",
    "teacher_info_nce",
    "triplet",
]
