"""The losses that do not wrap another loss; those in `nested` wrap these."""

from typing import Annotated

from jdistill.losses.base import LossConfig
from jdistill.losses.contrast.info_nce import InfoNCE
from jdistill.losses.contrast.mega_batch_margin import MegaBatchMargin
from jdistill.losses.contrast.sigmoid import Sigmoid
from jdistill.losses.contrast.teacher_info_nce import TeacherInfoNCE
from jdistill.losses.embedding import EmbedCosine, EmbedKL, EmbedL2, EmbedMSE
from jdistill.losses.hidden import Hidden
from jdistill.losses.labels.angle import AnglE
from jdistill.losses.labels.batch_triplet import BatchTriplet
from jdistill.losses.labels.contrastive import Contrastive, OnlineContrastive
from jdistill.losses.labels.cosent import CoSENT
from jdistill.losses.labels.cosine_similarity import CosineSimilarity
from jdistill.losses.labels.label_softmax import LabelSoftmax
from jdistill.losses.labels.triplet import Triplet
from jdistill.losses.regularise.sparsity import L1, Flops
from jdistill.losses.regularise.spread_out import SpreadOut
from jdistill.losses.scores.kl import ScoreKL
from jdistill.losses.scores.m3_kd import M3KD
from jdistill.losses.scores.margin_mse import ScoreMarginMSE
from jdistill.losses.scores.mse import ScoreMSE
from jdistill.losses.scores.rank import ScoreRank
from jdistill.losses.scores.zscore import ScoreZscore
from jdistill.outside import Outside

LeafLosses = (
    EmbedCosine
    | EmbedL2
    | EmbedMSE
    | EmbedKL
    | Hidden
    | InfoNCE
    | TeacherInfoNCE
    | Sigmoid
    | MegaBatchMargin
    | ScoreZscore
    | ScoreMSE
    | ScoreKL
    | ScoreMarginMSE
    | ScoreRank
    | M3KD
    | CoSENT
    | AnglE
    | CosineSimilarity
    | Triplet
    | BatchTriplet
    | Contrastive
    | OnlineContrastive
    | LabelSoftmax
    | SpreadOut
    | Flops
    | L1
)

OUTSIDE = Outside("jdistill.losses", LossConfig, defines=("__call__",))
"""Losses of other packages."""

LeafLoss = Annotated[LeafLosses | LossConfig, OUTSIDE]
"""Any loss that does not wrap another, discriminated by its `kind`."""
