"""What a user writes under `export:`."""

from typing import Literal

from pydantic import Field, PositiveFloat

from jdistill.config import Config

Projection = Literal["drop", "dense"]


class ExportConfig(Config):
    """How the student is handed over."""

    projection: Projection = Field(
        default="drop",
        description="What becomes of the projection to the teacher's space: 'drop' exports the student's own vectors; "
        "'dense' adds it as a module, so that the vectors can be compared with the teacher's.",
    )
    teacher: str | None = Field(
        default=None, description="Whose projection, with 'dense'; may be left out where there is one."
    )
    tolerance: PositiveFloat = Field(
        default=1e-5,
        description="Largest difference of any number between the exported and the trained model's vectors.",
    )
