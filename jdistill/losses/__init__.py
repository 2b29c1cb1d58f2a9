"""Training losses: each is a pure function on arrays, and a config class that calls it on a LossInputs.

To add one, write its file and add a line to `table.py`, which lists all that do not wrap another loss.
"""

from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from jdistill.losses.base import LossConfig as LossConfig
from jdistill.losses.base import Needs as Needs
from jdistill.losses.blocks import SINGLE_DEVICE as SINGLE_DEVICE
from jdistill.losses.contrast.false_negatives import *
from jdistill.losses.kinds import LEAF_LOSSES as LEAF_LOSSES
from jdistill.losses.kinds import OUTSIDE
from jdistill.losses.kinds import LeafLoss as LeafLoss
from jdistill.losses.nested.adaptive_layer import AdaptiveLayer as AdaptiveLayer
from jdistill.losses.nested.matryoshka import Matryoshka as Matryoshka
from jdistill.losses.scores.listwise import *
from jdistill.losses.table import *

if TYPE_CHECKING:
    Loss: TypeAlias = LossConfig
else:
    Loss = Annotated[Union[(*LEAF_LOSSES, Matryoshka, AdaptiveLayer, LossConfig)], OUTSIDE]
    """Any loss."""
