"""What a row of the table of encoders is."""

from typing import Any, NamedTuple

from jdistill.student.pooling.modes import Mode
from tests.student.encoders.vocabularies import Make

ENCODER_HEADS = ("MaskedLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")


class Case(NamedTuple):
    """One architecture x option, tiny."""

    hf: dict[str, Any]
    """`model_type`, sizes and options as in `config.json`; vocabulary and special tokens come from `vocabulary`."""
    vocabulary: Make
    """Its family of tokenizers."""
    variant: bool = False
    """Whether another row differs in an option only: then nothing is tried again that the option does not change."""
    kinked: bool = False
    """Whether the activation's derivative jumps: then a rounding switches part of a gradient on or off, and no bound on
    gradients in bfloat16 would mean anything."""
    heads: tuple[str, ...] = ENCODER_HEADS
    """Task heads that checkpoints come with, `AutoModelFor...`; a student leaves them aside."""
    refused: tuple[tuple[dict[str, Any], str], ...] = ()
    """Changes of `config.json` that are refused, and what the message says."""
    pooling: Mode = "mean"
    """As in models of this architecture that are in use."""
    keep: tuple[int, ...] = (1,)
    """Layers that a shallower student keeps."""
    max_length: int = 24
    """Tokens at which the folder's tokenizer cuts."""
    tolerance: float = 1e-5
    """Largest relative difference from transformers in float32."""
    cause: str = ""
    """Why it is above 1e-5."""
