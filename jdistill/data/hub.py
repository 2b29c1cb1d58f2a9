"""Reads Hugging Face data sets as chunks of columns, streamed or not; `datasets` is imported on first use."""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jdistill.config import UserError
from jdistill.data.chunk import Chunk, require_columns
from jdistill.data.config import SourceConfig

_CHUNK_ROWS = 1000


def hub_chunks(source: SourceConfig, *, where: str = "") -> Iterator[Chunk]:
    """The mapped columns of `source.dataset`.

    Raises:
      UserError: if the `datasets` package is missing, or the data set, its split or a column cannot be found.
    """
    assert source.dataset is not None
    where = f"{where}{source.dataset}"
    columns = source.columns.used
    data = _load(source, where)
    if data.column_names is not None:  # streams with unknown columns are checked at their first rows
        require_columns(columns, data.column_names, where=where)
        data = data.select_columns(columns)
    first = 1
    for chunk in _read(data, where):
        require_columns(columns, list(chunk), where=where)
        yield Chunk(where, first, {column: list(chunk[column]) for column in columns})
        first += len(chunk[columns[0]])


def local_files(source: SourceConfig) -> list[tuple[str, Path]]:
    """Relative name and path of each file of a local data set, sorted; empty if it is not local.

    Excludes what `datasets` ignores, i.e. hidden files such as .git and the metadata of `hf download`, and what it
    writes when reading (`cache-*.arrow`) or saving (`state.json`) a folder.
    """
    folder = Path(str(source.dataset))
    if not folder.is_dir():
        return []
    files = (file for file in folder.rglob("*") if file.is_file())
    named = [(file.relative_to(folder).as_posix(), file) for file in files]
    return sorted((name, file) for name, file in named if not _is_note(name))


def _is_note(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return hidden or path.name == "state.json" or path.match("cache-*.arrow") or path.suffix == ".lock"


def _read(data: Any, where: str) -> Iterator[dict[str, Any]]:
    """The chunks of a data set; any exception of the package is reported as a problem of the data."""
    chunks = data.iter(batch_size=_CHUNK_ROWS)
    while True:
        try:
            chunk = next(chunks)
        except StopIteration:
            return
        except Exception as error:
            reason = " ".join(str(error).split()).rstrip(".")[:300]
            raise UserError(
                f"{where}: cannot be read: {type(error).__name__}: {reason}. Repair the data set."
            ) from error
        yield chunk


def _load(source: SourceConfig, where: str) -> Any:
    """The data set, without the format it may have been saved with, which can hide columns and types."""
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
            if not isinstance(saved, datasets.DatasetDict):
                _require_whole(source, saved.split, where)
            else:
                saved = saved[source.split]
            return saved.with_format(None)
        return datasets.load_dataset(
            str(source.dataset),
            source.name,
            split=source.split,
            revision=source.revision,
            streaming=source.streaming,
            **_as_strings(source),
        )
    except UserError:
        raise
    except Exception as error:  # the package raises a dozen types, all about the user's settings
        reason = " ".join(str(error).split()).rstrip(".")[:300]
        raise UserError(
            f"{where}: cannot load split '{source.split}': {type(error).__name__}: {reason}. "
            "Check id, name, split, revision and the network connection."
        ) from error


def _require_whole(source: SourceConfig, split: Any, where: str) -> None:
    """Refuse a split of a data set that was saved without splits."""
    if source.split not in ("train", str(split)):
        raise UserError(
            f"{where}: was saved as one table without splits, so there is no split '{source.split}'. Remove `split`, "
            "or save the wanted part separately."
        )


def _as_strings(source: SourceConfig) -> dict[str, Any]:
    """Options that read .csv and .tsv files as `path` does: cells as strings, and no quoting in .tsv.

    Empty if the data set declares its column types.
    """
    import datasets

    builder = datasets.load_dataset_builder(str(source.dataset), source.name, revision=source.revision)
    if builder.name != "csv" or builder.info.features is not None:
        return {}
    quoting: dict[str, Any] = {"quoting": csv.QUOTE_NONE} if getattr(builder.config, "sep", ",") == "\t" else {}
    return {"converters": dict.fromkeys(source.columns.used, str), "keep_default_na": False, **quoting}
