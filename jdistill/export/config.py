"""The `export:` section of a config."""

from typing import Literal

from pydantic import Field, PositiveFloat

from jdistill.config import Config

ExportedProjection = Literal["drop", "dense"]


class ExportConfig(Config):
    """How the student is exported."""

    projection: ExportedProjection = Field(
        default="drop",
        description="What to do with the projection to the teacher's space: 'drop' exports the student's own vectors; "
        "'dense' appends it as a Dense module, so that the vectors can be compared with the teacher's.",
    )
    teacher: str | None = Field(
        default=None, description="Teacher whose projection 'dense' exports; optional if there is only one."
    )
    tolerance: PositiveFloat = Field(
        default=1e-5,
        description="Largest allowed difference of any number between the vectors of the exported and of the trained "
        "model.",
    )
