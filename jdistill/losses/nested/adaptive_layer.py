"""`adaptive_layer`: any loss also at earlier layers, so that users can drop layers of the student and lose little."""

__all__ = ["AdaptiveLayer"]

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias, Union

import jax
from jax import lax
from jaxtyping import Array, Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from typing_extensions import override

from jdistill.config import UserError
from jdistill.losses.base import LossConfig, Needs
from jdistill.losses.embedding import embed_kl, over_columns
from jdistill.losses.kinds import LEAF_LOSSES
from jdistill.losses.nested.base import NestedLoss, draw, if_drawn
from jdistill.losses.nested.matryoshka import Matryoshka
from jdistill.types import LossInputs, Projection, Side

if TYPE_CHECKING:
    Inner: TypeAlias = LossConfig
else:
    Inner = Annotated[Union[(*LEAF_LOSSES, Matryoshka)], Field(discriminator="kind")]

WEIGHTINGS: dict[str, Callable[[int], float]] = {
    "uniform": lambda layer: 1.0,
    "log": lambda layer: 1 / (1 + math.log(1 + layer)),
    "linear": lambda layer: 1 / (1 + layer),
}
"""Factor of an earlier layer, given as its number of layers."""


class Learning(NamedTuple):
    """Inputs of the loss at one layer that receive gradients."""

    student: Side
    projection: Projection | None
    parameters: dict[str, Array]


class AdaptiveLayer(NestedLoss):
    """A loss at the last layer and at earlier ones, plus a divergence between them.

    With S the layers drawn for this step, x_l the student's vectors if it ended after l layers, and L its depth:
        loss = w_last inner(x_L) + sum_{l in S} [ w_prior w(l) inner(x_l) / |S| + w_kl T KL(p_L || p_l) ]
        p_l = softmax(x_l / T) over embedding dimensions; p_L gets no gradient
    KL is the mean over the row's texts. With a `matryoshka` inside, this is 2D Matryoshka; KL compares whole vectors.

    Source: Li et al. 2024, arXiv:2402.14776 (2DMSE). Parity: sentence-transformers AdaptiveLayerLoss, Matryoshka2dLoss.
    """

    kind: Literal["adaptive_layer"] = "adaptive_layer"
    papers = ("arXiv:2402.14776",)
    loss: Inner
    """The loss at each layer: a mapping with a `kind` and its options; may be a `matryoshka`."""
    layers_per_step: PositiveInt | None = 1
    """Draw this many earlier layers at random in each step; null, or more than there are: all."""
    last_layer_weight: NonNegativeFloat = 1.0
    """Factor of the loss at the last layer."""
    prior_layers_weight: NonNegativeFloat = 1.0
    """Factor of the mean of the loss over the earlier layers drawn."""
    kl_div_weight: NonNegativeFloat = 1.0
    """Factor of the divergence between the last layer and each earlier one; 0 leaves it out."""
    kl_temperature: PositiveFloat = 0.3
    """Divides the vectors before their softmax."""
    layer_weighting: Literal["uniform", "log", "linear"] = "uniform"
    """Factor of layer l among the earlier ones: 1, 1 / (1 + ln(1 + l)) or 1 / (1 + l)."""

    @field_validator("loss")
    @classmethod
    def _has_no_layer_of_its_own(cls, loss: LossConfig) -> LossConfig:
        if loss.needs().layers:
            raise ValueError("selects its own layer and cannot be nested. Make it a separate term.")
        return loss

    @override
    def needs(self) -> Needs:
        return self.loss.needs()._replace(layers="every")

    @override
    def __call__(self, inputs: LossInputs) -> Float[Array, " b"]:
        """Value of each row.

        Raises:
          UserError: if the student has no earlier layers.
        """
        if not inputs.at_layer:
            raise UserError(
                "adaptive_layer trains earlier layers of the student, but it has none. Use its 'loss' as the term."
            )
        # A layer's own key follows from its number, so that its random numbers do not depend on which layers are drawn.
        draw_key, own_key = jax.random.split(inputs.key)
        last = inputs._replace(at_layer={}, key=jax.random.fold_in(own_key, len(inputs.at_layer)))
        drawn = draw(draw_key, len(inputs.at_layer), self.layers_per_step or len(inputs.at_layer))
        total = self.last_layer_weight * self.loss(last)
        # The divergence trains the earlier layer; the last layer is its fixed target.
        taught = lax.stop_gradient(inputs._replace(at_layer={}, projection=None, parameters={}))
        for layer in sorted(inputs.at_layer):
            learning = Learning(inputs.at_layer[layer], inputs.projection, inputs.parameters)
            earlier = partial(self._earlier, layer, len(inputs.at_layer))
            # The draw is known on the devices only, so every layer is in the program, and a condition skips it.
            total += if_drawn(earlier, (drawn == layer).any(), learning, (taught, own_key))
        return total

    def _earlier(
        self, layer: int, depth: int, learning: Learning, rest: tuple[LossInputs, Array]
    ) -> Float[Array, " b"]:
        last, key = rest
        student, projection, parameters = learning
        here = last._replace(
            student=student, projection=projection, parameters=parameters, key=jax.random.fold_in(key, layer)
        )
        drawn = min(self.layers_per_step or depth, depth)
        value = self.prior_layers_weight * WEIGHTINGS[self.layer_weighting](layer) / drawn * self.loss(here)
        if not self.kl_div_weight:
            return value
        to_last = here._replace(teacher=last.student, projection=None)
        # embed_kl is T^2 KL; the formula has T KL.
        divergence = over_columns(to_last, partial(embed_kl, temperature=self.kl_temperature)) / self.kl_temperature
        return value + self.kl_div_weight * divergence
