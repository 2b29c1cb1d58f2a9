"""The types of loss options in a recipe: a union over the classes in the table, discriminated by `kind`."""

from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from jdistill.losses import table
from jdistill.losses.base import LossConfig
from jdistill.outside import Outside

LEAF_LOSSES: tuple[type[LossConfig], ...] = tuple(
    value for value in vars(table).values() if isinstance(value, type) and issubclass(value, LossConfig)
)
"""Every loss of this package that does not wrap another."""

OUTSIDE = Outside("jdistill.losses", LossConfig, defines=("__call__",))
"""Losses of other packages."""

if TYPE_CHECKING:  # a union made from a tuple is unknown to type checkers
    LeafLoss: TypeAlias = LossConfig
else:
    LeafLoss = Annotated[Union[(*LEAF_LOSSES, LossConfig)], OUTSIDE]
    """Any loss that does not wrap another."""
