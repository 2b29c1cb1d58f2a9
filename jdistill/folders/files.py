"""Reads and writes JSON files of a model's folder; damaged files raise a `UserError`."""

import json
from pathlib import Path
from typing import Any

from jdistill.config import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; `{}` if the file does not exist.

    Raises:
      UserError: if it cannot be read, is not JSON, or does not contain an object.
    """
    content = _content(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: contains a {_kind(content)}; expected a JSON object, {{...}}. {_RENEW}")
    return content


def read_list(path: Path) -> list[Any]:
    """The list in a JSON file; `[]` if the file does not exist.

    Raises:
      UserError: if it cannot be read, is not JSON, or does not contain a list.
    """
    content = _content(path)
    if content is None:
        return []
    if not isinstance(content, list):
        raise UserError(f"{path}: contains a {_kind(content)}; expected a JSON list, [...]. {_RENEW}")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON in UTF-8; makes the folder if necessary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def indexed(index: Path) -> list[Path]:
    """The weight files that an index lists, in the same folder.

    Raises:
      UserError: if the index lists no files, or some are missing.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise UserError(
            f"{index}: has no weight_map from tensors to files. Copy or download it again, or save the weights again "
            "with transformers' save_pretrained."
        )
    files = sorted(set(named.values()))
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise UserError(
            f"{index}: lists {outside[0]!r}; expected names of files in the same folder. Copy the model again."
        )
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index.parent}: has no {', '.join(missing)}, which {index.name} lists. Copy or download all parts of the "
            "weights."
        )
    return [index.parent / name for name in files]


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a Git LFS pointer instead of the actual file."""
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs")


_RENEW = "Copy or download the file again."


def _content(path: Path) -> Any:
    """The parsed content; None if the file does not exist."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise UserError(f"{path}: is empty; expected JSON. The copy may have been interrupted. {_RENEW}")
        content = json.loads(text)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}. Check the file's permissions.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}. {_RENEW}") from error
    # None means that there is no file; a file with `null` is one of the wrong type.
    return "null" if content is None else content


def _kind(content: Any) -> str:
    return {dict: "JSON object", list: "JSON list", str: "string", bool: "boolean"}.get(type(content), "number")
