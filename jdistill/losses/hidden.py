"""`hidden`: train an earlier layer of the student on a teacher, typically on one of its earlier layers.

The layer's output passes through the student's pooling and head, and is compared per text, as in `embed_*`, not per
token: student and teacher may have different tokenizers. To use a teacher's earlier layer, add it to the run as another
teacher with `layer` set.
"""

__all__ = ["Hidden"]

from collections.abc import Callable
from typing import Literal

from jaxtyping import Array, Float
from pydantic import NonNegativeInt
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.embedding import embed_cosine, embed_l2, embed_mse, over_columns
from jdistill.papers import Papers
from jdistill.types import LossInputs

DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "cosine": embed_cosine,
    "l2": embed_l2,
    "mse": embed_mse,
}


class Hidden(LossConfig):
    """Distance between the student's vectors at an earlier layer and a teacher's vectors of the same texts.

    Source: Sanh et al. 2019, arXiv:1910.01108, section 3 (cosine); Jiao et al. 2020, arXiv:1909.10351, equation 8 (mean
    square, with a learned projection); both over tokens instead of texts.
    """

    kind: Literal["hidden"] = "hidden"
    layer: NonNegativeInt
    """Number of layers of the student before the output is taken: 0 is its embeddings, depth - 1 the last but one."""
    distance: Literal["cosine", "l2", "mse"] = "cosine"
    """As in `embed_cosine` (DistilBERT's choice), `embed_l2` and `embed_mse` (TinyBERT's)."""

    @override
    def cited(self) -> Papers:
        """DistilBERT for the cosine, TinyBERT for the other distances."""
        return ("arXiv:1910.01108",) if self.distance == "cosine" else ("arXiv:1909.10351",)

    @override
    def needs(self) -> Needs:
        return Needs(teacher=True, projection=True, layers=(self.layer,), batch=False)

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row, the mean over its texts.

        Raises:
          UserError: if the student has no such earlier layer.
        """
        if self.layer not in inputs.at_layer:
            raise UserError(
                f"hidden: layer is {self.layer}, but the student has no such earlier layer. Lower it; for the last "
                "layer use embed_cosine, embed_l2 or embed_mse."
            )
        return over_columns(inputs._replace(student=inputs.at_layer[self.layer]), DISTANCES[self.distance])
