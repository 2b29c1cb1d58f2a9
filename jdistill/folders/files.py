"""JSON files of a model's folder, read so that a damaged one is an answer and not a crash."""

import json
from pathlib import Path
from typing import Any

from jdistill.config import UserError


def read_json(path: Path) -> dict[str, Any]:
    """The object that a JSON file holds; `{}` if there is no such file.

    Raises:
      UserError: if it cannot be read, is not JSON, or holds something else than an object.
    """
    content = _content(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {_kind(content)}; expected a JSON object, {{...}}. {_RENEW}")
    return content


def read_list(path: Path) -> list[Any]:
    """The list that a JSON file holds; `[]` if there is no such file.

    Raises:
      UserError: if it cannot be read, is not JSON, or holds something else than a list.
    """
    content = _content(path)
    if content is None:
        return []
    if not isinstance(content, list):
        raise UserError(f"{path}: holds a {_kind(content)}; expected a JSON list, [...]. {_RENEW}")
    return content


def indexed(index: Path) -> list[Path]:
    """The files that an index of weights names, which lie beside it.

    Raises:
      UserError: if the index does not name files, or some of them are not there.
    """
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) for name in named.values()):
        raise UserError(
            f"{index}: has no weight_map of tensors to files. Copy or download it again, or save the weights again "
            "with save_pretrained of transformers."
        )
    files = sorted(set(named.values()))
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise UserError(f"{index}: names {outside[0]!r}; expected names of files beside it. Copy the model again.")
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        raise UserError(
            f"{index.parent}: has no {', '.join(missing)}, which {index.name} names. Copy or download all parts of the "
            "weights."
        )
    return [index.parent / name for name in files]


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is only the note that Git LFS leaves in place of a large one."""
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs")


_RENEW = "Copy or download the file again."


def _content(path: Path) -> Any:
    """None where there is no file."""
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise UserError(f"{path}: is empty; expected JSON. An interrupted copy leaves such files. {_RENEW}")
        content = json.loads(text)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}. Check the file's permissions.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}. {_RENEW}") from error
    return "null" if content is None else content


def _kind(content: Any) -> str:
    return {dict: "JSON object", list: "JSON list", str: "string", bool: "truth value"}.get(type(content), "number")
