"""Which model teaches, and how it is asked."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from jdistill.config import Config, PathText


class TeacherPrompts(Config):
    """Text put in front of each text, per side, and never on the other side."""

    query: str | None = None
    """In front of queries; null: as the model's own `prompts` say, else nothing."""
    document: str | None = None
    """In front of documents; null: as the model's own `prompts` say, else nothing."""


class TeacherConfig(Config):
    """A sentence-transformers model whose vectors are learned."""

    model: PathText
    """Folder of the model, or its id on the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub; a commit makes the run repeatable."""
    prompts: TeacherPrompts = TeacherPrompts()
    max_length: PositiveInt | None = None
    """Most tokens of a text, prompt and special tokens included; null: as the model."""
    batch_size: PositiveInt = 64
    """Texts per forward pass, fewer of those longer than 512 tokens; changes speed and memory only."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """Type of the model's weights and computation."""
    normalize: bool | None = None
    """Scale vectors to length 1; null: as the model."""
    layer: NonNegativeInt | None = None
    """Take the vectors as if the model ended after so many layers, 0 being its embeddings; null: after the last. For
    students whose earlier layers learn from earlier layers of the teacher."""
    truncate_dim: PositiveInt | None = None
    """Keep the first so many numbers of each vector, for models trained to allow it; null: all."""
    device: str = "auto"
    """torch device such as cpu or cuda:0; auto: an accelerator if there is one."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """How vectors are stored; float16 halves the store at an error of about 5e-4 of each number."""
    shard_rows: PositiveInt = Field(
        default=8192, description="Vectors per file; a killed run repeats at most one file."
    )
