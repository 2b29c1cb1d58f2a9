"""The losses that do not wrap another one: a line each.

What a module lists in its `__all__` is public as `jdistill.losses.<name>`; a class among it is a `kind` for recipes.
"""

from jdistill.losses.contrast.info_nce import *
from jdistill.losses.contrast.mega_batch_margin import *
from jdistill.losses.contrast.sigmoid import *
from jdistill.losses.contrast.teacher_info_nce import *
from jdistill.losses.embedding import *
from jdistill.losses.hidden import *
from jdistill.losses.labels.angle import *
from jdistill.losses.labels.batch_triplet import *
from jdistill.losses.labels.contrastive import *
from jdistill.losses.labels.cosent import *
from jdistill.losses.labels.cosine_similarity import *
from jdistill.losses.labels.label_softmax import *
from jdistill.losses.labels.triplet import *
from jdistill.losses.regularise.sparsity import *
from jdistill.losses.regularise.spread_out import *
from jdistill.losses.scores.kl import *
from jdistill.losses.scores.m3_kd import *
from jdistill.losses.scores.margin_mse import *
from jdistill.losses.scores.mse import *
from jdistill.losses.scores.rank import *
from jdistill.losses.scores.zscore import *
