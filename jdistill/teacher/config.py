"""Teacher config: the model and how to run it."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from jdistill.config import Config, PathText


class TeacherPrompts(Config):
    """Prompts prepended to queries and documents."""

    query: str | None = None
    """Prompt for queries; null uses the model's own prompt, if any."""
    document: str | None = None
    """Prompt for documents; null uses the model's own prompt, if any."""


class TeacherConfig(Config):
    """A sentence-transformers model used as teacher."""

    model: PathText
    """Folder of the model, or its id on the Hugging Face hub."""
    revision: str | None = None
    """Commit, tag or branch on the hub; a commit makes the run reproducible."""
    prompts: TeacherPrompts = TeacherPrompts()
    max_length: PositiveInt | None = None
    """Maximum number of tokens, prompt and special tokens included; null uses the model's own."""
    batch_size: PositiveInt = 64
    """Texts per forward pass, fewer for texts over 512 tokens; affects speed and memory only."""
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    """dtype of the model's weights and computation."""
    normalize: bool | None = None
    """Normalize vectors to length 1; null keeps the model's behavior."""
    layer: NonNegativeInt | None = None
    """Use the hidden states after this layer (0: the embeddings) instead of the last; null uses the last. For students
    whose earlier layers learn from earlier layers of the teacher."""
    truncate_dim: PositiveInt | None = None
    """Keep the first N dimensions of each vector, for Matryoshka models; null keeps all."""
    device: str = "auto"
    """torch device such as cpu or cuda:0; auto uses an accelerator if available."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for models whose authors you trust."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """dtype of the stored vectors; float16 halves the store at a relative error of about 5e-4."""
    shard_rows: PositiveInt = Field(default=8192, description="Vectors per file, the unit of work for resuming.")
