"""StaticEmbedding: a table of token vectors and a tokenizer, in `model.safetensors` and `tokenizer.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jdistill.config import UserError
from jdistill.folders import read_tensors, write_tensors
from jdistill.student.encoders import StaticConfig
from jdistill.student.hf_folder.modules.first import First
from jdistill.student.student import Student, to_hf_tensors
from jdistill.student.tokenizer import Tokenizer, truncation_in

CLASS = "sentence_transformers.models.StaticEmbedding"


def read(folder: Path) -> First:
    """Read the module; model2vec's `mapping` and `weights` are merged into the table.

    Raises:
      UserError: if the shapes do not match.
    """
    tensors = dict(read_tensors(folder))
    if "embeddings" in tensors:
        table = tensors.pop("embeddings")
        try:
            # model2vec shares rows between similar tokens: `mapping` is the row of each token, `weights` its factor.
            table = table[tensors.pop("mapping")] if "mapping" in tensors else table
            table = table * tensors.pop("weights")[:, None] if "weights" in tensors else table
        except (IndexError, ValueError) as error:
            raise UserError(f"{folder}: shapes of embeddings, mapping and weights do not match: {error}.") from error
        tensors["embedding.weight"] = table
    shape = tensors.get("embedding.weight", np.zeros((1, 1))).shape
    if len(shape) != 2:
        raise UserError(f"{folder}: its embeddings have the shape {shape}; expected [tokens, width].")
    encoder = StaticConfig(vocab_size=shape[0], hidden_size=shape[1])
    return First(encoder, tensors, Tokenizer.from_folder(folder, special_tokens=False), truncation_in(folder))


def write(student: Student, params: Mapping[str, Any], folder: Path) -> None:
    """Write the table, and the tokenizer with the maximum length as its truncation."""
    student.tokenizer.save(folder, max_length=student.config.max_length)
    write_tensors(folder / "model.safetensors", to_hf_tensors(student, params))
