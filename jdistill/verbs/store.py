"""`jdistill store`: describe a store, verify it, and exchange teacher vectors as data sets."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jdistill.config import Config, UserError, apply_overrides, parse
from jdistill.store import Store, VectorColumns, from_dataset, to_dataset, verify
from jdistill.store.files import load_json, publish, temporary

if TYPE_CHECKING:
    from datasets import Dataset

LISTED = 10
"""Problems named in the message; of a store with more, the number of others follows."""


class ImportOptions(Config):
    """Options of `jdistill store import`."""

    teacher: str = "teacher"
    """Name of the teacher in the store."""
    role: str = "train"
    """Role of the rows: `train` or `heldout`."""
    columns: VectorColumns | None = None
    """Names of the columns; null: those that `jdistill store export` writes."""
    description: dict[str, Any] | None = None
    """What made the vectors, such as `description.model=NAME` and `description.prompts.query="query: "`; null: read it
    from the data set, where `jdistill store export` writes it."""


class ExportOptions(Config):
    """Options of `jdistill store export`."""

    teacher: str | None = None
    """Name of the teacher; null: the only one."""
    role: str = "train"
    """Role of the rows."""


def info(path: str) -> dict[str, Any]:
    """What a store contains, as plain values: texts, rows of each role, teachers, and their sizes in bytes.

    Raises:
      UserError: if there is no complete store.
    """
    store = Store.open(path)
    return {
        "store": str(store.path),
        "format": store.manifest["format"],
        "bytes": _bytes(store.path),
        "texts": {"count": len(store.texts), "bytes": _bytes(store.path / "texts")},
        "rows": {role: _rows(store, role) for role in store.roles},
        "labels": list(store.labels),
        "teachers": {folder.name: _teacher(store, folder) for folder in sorted((store.path / "teachers").glob("*/"))},
        "caches": {name: _bytes(store.path / name) for name in ("tokens", "hidden") if (store.path / name).is_dir()},
    }


def format_info(content: dict[str, Any]) -> str:
    """The result of `info` as text."""
    lines = [f"store at {content['store']}: format {content['format']}, {_size(content['bytes'])}"]
    lines.append(f"  texts: {content['texts']['count']:,}, {_size(content['texts']['bytes'])}")
    for role, rows in content["rows"].items():
        lines.append(f"  rows of the role {role}: {rows['count']:,} with {', '.join(rows['columns'])}")
    if content["labels"]:
        lines.append(f"  labels: {len(content['labels']):,}")
    for name, teacher in content["teachers"].items():
        if not teacher["complete"]:
            lines.append(
                f"  teacher {name}: incomplete, {teacher['shards_done']} of {teacher['shards']} shards. Rerun "
                "`jdistill embed` to resume."
            )
            continue
        revision = f" at {teacher['revision']}" if teacher["revision"] else ""
        origin = f", imported from {teacher['origin']}" if teacher["origin"] else ""
        lines.append(
            f"  teacher {name}: {teacher['vectors']:,} vectors of width {teacher['width']}, {teacher['dtype']}, "
            f"{_size(teacher['bytes'])}; {teacher['model'] or 'unknown model'}{revision}{origin}"
        )
    for name, size in content["caches"].items():
        lines.append(f"  cache of {'tokens' if name == 'tokens' else 'hidden states'}: {_size(size)}")
    return "\n".join(lines)


def check(path: str) -> str:
    """Verify every file of a store against its hash, and every vector's key against its text; reads everything once.

    Raises:
      UserError: naming what is damaged.
    """
    store = Store.open(path)
    problems = verify(store)
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise UserError(
            f"store at {store.path}: {len(problems)} problem{'s' if len(problems) > 1 else ''}: "
            f"{'; '.join(problems[:LISTED])}{more}. Restore these files from a copy; or move a damaged teacher's "
            "folder, or for damaged texts or rows the whole store, aside and rerun `jdistill embed`."
        )
    teachers = [f"{name} ({len(store.teacher(name)):,} vectors)" for name in store.teachers]
    return f"{store.path}: no damage: {len(store.texts):,} texts, teachers: {', '.join(teachers) or 'none'}"


def import_dataset(source: str, path: str, overrides: Sequence[str] = ()) -> str:
    """Import texts and vectors from a data set into a store.

    Args:
      source: a folder written by `Dataset.save_to_disk`, or a parquet file.
      path: the store; created, or if it has the same texts, extended by a teacher.
      overrides: `key=value` of ImportOptions.

    Raises:
      UserError: if there is no such data set, or as `from_dataset` does.
    """
    options = parse(ImportOptions, apply_overrides({}, overrides), where="store import")
    dataset = _open_dataset(Path(source))
    store = from_dataset(
        dataset, options.columns, path, options.description, teacher=options.teacher, role=options.role
    )
    vectors = store.teacher(options.teacher)
    return f"Wrote {path}: {len(store.texts):,} texts, {len(vectors):,} vectors of teacher '{options.teacher}'."


def export_dataset(path: str, out: str, overrides: Sequence[str] = ()) -> str:
    """Export the rows of one role with their texts and one teacher's vectors; `out` is complete or absent.

    Args:
      path: the store.
      out: what to write: a parquet file if it ends in `.parquet`, otherwise a folder as of `Dataset.save_to_disk`.
      overrides: `key=value` of ExportOptions.

    Raises:
      UserError: if `out` exists, or the store has no such role or teacher.
    """
    options = parse(ExportOptions, apply_overrides({}, overrides), where="store export")
    target = Path(out)
    if target.exists():
        raise UserError(f"store export: {out} exists already. Choose another path, or move it.")
    _datasets()
    store = Store.open(path)
    dataset = to_dataset(store, options.role, options.teacher or _only_teacher(store))
    target.parent.mkdir(parents=True, exist_ok=True)
    made, note = temporary(target), ""
    try:
        if target.suffix == ".parquet":
            dataset.to_parquet(made)
            note = " A parquet file does not say what made the vectors: import it with description.model=... and so on."
        else:
            dataset.save_to_disk(made)
        publish(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink(missing_ok=True)
    return f"Wrote {out}: {len(dataset):,} rows, columns {', '.join(dataset.column_names)}.{note}"


def _datasets() -> Any:
    """The package, without progress bars of its own."""
    try:
        import datasets
    except ImportError as error:
        raise UserError("store: data sets need `pip install 'jdistill[teacher]'`.") from error
    datasets.disable_progress_bars()
    return datasets


def _open_dataset(source: Path) -> "Dataset":
    datasets = _datasets()
    if not source.exists():
        raise UserError(f"data set {source}: does not exist. Give a folder of `save_to_disk`, or a parquet file.")
    try:
        dataset = datasets.Dataset.from_parquet(str(source)) if source.is_file() else datasets.load_from_disk(source)
    except Exception as error:  # libraries raise many types for damaged files
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"data set {source}: cannot be read: {reason}. Expected a folder of `save_to_disk`, or a parquet file."
        ) from error
    if isinstance(dataset, datasets.DatasetDict):
        raise UserError(
            f"data set {source}: has splits ({', '.join(map(str, dataset))}). Give the folder of one of them, such as "
            f"{source / str(next(iter(dataset), 'train'))}."
        )
    return dataset  # pyright: ignore[reportReturnType]


def _only_teacher(store: Store) -> str:
    if len(store.teachers) != 1:
        known = ", ".join(store.teachers) or "none"
        raise UserError(f"store at {store.path}: has the teachers {known}. Choose one with teacher=NAME.")
    return store.teachers[0]


def _rows(store: Store, role: str) -> dict[str, Any]:
    rows = store.rows(role)
    negatives = rows.documents.shape[1] - 1
    columns = [] if rows.queries is None else ["query"]
    columns += ["document"] if not negatives else ["document", f"{negatives} negative{'s' if negatives > 1 else ''}"]
    columns += (
        [] if rows.scores is None else ["score" if rows.scores.shape[1] == 1 else f"{rows.scores.shape[1]} scores"]
    )
    columns += [] if rows.labels is None else ["label"]
    return {"count": len(rows.documents), "columns": columns, "bytes": _bytes(store.path / "rows" / role)}


def _teacher(store: Store, folder: Path) -> dict[str, Any]:
    if folder.name not in store.teachers:
        plan = load_json(folder / "plan.json", keys=("shards",)) if (folder / "plan.json").is_file() else {"shards": 0}
        done = len(list((folder / "shards").glob("*.json")))
        return {"complete": False, "shards": plan["shards"], "shards_done": done, "bytes": _bytes(folder)}
    vectors = store.teacher(folder.name)
    description = vectors.manifest["description"]
    return {
        "complete": True,
        "model": description.get("model"),
        "revision": description.get("revision"),
        "origin": vectors.origin,
        "vectors": len(vectors),
        "width": vectors.width,
        "dtype": vectors.dtype,
        "bytes": _bytes(folder),
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
