"""Stand-ins for models: texts are keys of a table of vectors."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


class TableModel:
    """Looks like our `Encode` and like what sentence-transformers' evaluators call; counts the calls per side."""

    similarity_fn_name = "cosine"

    class model_card_data:  # noqa: N801
        """Where sentence-transformers' evaluators leave a note; nobody reads it."""

        set_evaluation_metrics = staticmethod(lambda *arguments: None)

    def __init__(self, table: Mapping[str, np.ndarray]) -> None:
        self.table = table
        self.calls: list[tuple[str, int]] = []

    def __call__(self, texts: list[str], *, side: str) -> np.ndarray:
        self.calls.append((side, len(texts)))
        return np.stack([self.table[text] for text in texts]).astype(np.float32)

    def encode(self, texts: Sequence[str], *, convert_to_tensor: bool = False, **options: Any) -> Any:
        import torch

        vectors = np.stack([self.table[text] for text in texts]).astype(np.float32)
        return torch.from_numpy(vectors) if convert_to_tensor else vectors

    encode_query = encode_document = encode

    @property
    def similarity(self) -> Any:
        from sentence_transformers.util import cos_sim

        return cos_sim


def random_table(texts: Sequence[str], *, width: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {text: generator.normal(size=width) for text in dict.fromkeys(texts)}


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]]) -> str:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return str(path)


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> str:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path)
    return str(path)
