"""Data sets of the Hugging Face hub as batches of columns, streamed or not; `datasets` is imported on first use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jdistill.config import UserError
from jdistill.data.config import SourceConfig
from jdistill.data.files import Batch, require_columns

_BATCH_ROWS = 1000


def hub_batches(source: SourceConfig, *, where: str = "") -> Iterator[Batch]:
    """The mapped columns of `source.dataset`.

    Raises:
      UserError: if the `datasets` package is missing, or the data set, its split or a column cannot be found.
    """
    assert source.dataset is not None
    where = f"{where}{source.dataset}"
    columns = source.columns.used
    data = _load(source, where)
    if data.column_names is not None:  # a stream of unknown columns is checked by its first rows
        require_columns(columns, data.column_names, where=where)
        data = data.select_columns(columns)
    first = 1
    for batch in data.iter(batch_size=_BATCH_ROWS):
        require_columns(columns, list(batch), where=where)
        yield Batch(where, first, {column: list(batch[column]) for column in columns})
        first += len(batch[columns[0]])


def _load(source: SourceConfig, where: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            f"{where}: needs the 'datasets' package. Install it: pip install 'jdistill[teacher]'."
        ) from error
    path = Path(str(source.dataset))
    try:
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(path))
            return saved[source.split] if isinstance(saved, datasets.DatasetDict) else saved
        return datasets.load_dataset(
            str(source.dataset),
            source.name,
            split=source.split,
            revision=source.revision,
            streaming=source.streaming,
        )
    except Exception as error:  # the package raises a dozen kinds; every one of them is about what the user named
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise UserError(
            f"{where}: cannot load split '{source.split}': {type(error).__name__}: {reason}. "
            "Check id, name, split and revision, and that the network is there."
        ) from error
