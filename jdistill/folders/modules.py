"""`modules.json` of a sentence-transformers folder: the modules of a model and their folders."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.config import UserError
from jdistill.folders.files import read_json, read_list

ROUTERS = ("Router", "Asym")
"""Classes that contain further modules, by route."""


class Module(NamedTuple):
    """A module of a model: its torch class, and where its files are."""

    type: str
    """Dotted path of its class."""
    folder: Path
    """Folder with its files; may not exist if it has none."""
    name: str
    """Its name in `modules.json`."""

    @property
    def cls(self) -> str:
        """Name of its class."""
        return self.type.rpartition(".")[2]

    @property
    def package(self) -> str:
        """Top-level package of its class."""
        return self.type.partition(".")[0]


def modules_of(folder: Path) -> list[Module]:
    """The modules in order; `[]` for a plain transformers folder.

    Raises:
      UserError: if the file is not a list of modules, or a module's folder is outside the model's.
    """
    path = folder / "modules.json"
    return [_module(folder, entry, path) for entry in read_list(path)]


def all_modules(folder: Path) -> Iterator[Module]:
    """The modules, including those inside routers.

    Raises:
      UserError: as `modules_of`.
    """
    yield from _with_inner(modules_of(folder))


def _with_inner(modules: list[Module]) -> Iterator[Module]:
    for module in modules:
        yield module
        if module.cls in ROUTERS:
            yield from _with_inner(_routed(module))


def _routed(router: Module) -> list[Module]:
    path = router.folder / "router_config.json"
    if not path.is_file():
        path = router.folder / "config.json"
    types = read_json(path).get("types")
    if not isinstance(types, dict):
        raise UserError(f"{path}: has no 'types', the router's modules. Copy or download the model again.")
    return [_module(router.folder, {"type": kind, "path": name}, path) for name, kind in types.items()]


def _module(folder: Path, entry: Any, path: Path) -> Module:
    kind, place = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(place, str):
        raise UserError(
            f"{path}: expected a 'type' and a 'path' for each module, as strings; found {str(entry)[:80]}. Copy or "
            "download the model again."
        )
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise UserError(f"{path}: path {place!r} is outside the model's folder. Expected a folder inside it.")
    return Module(kind, folder / place, str(entry.get("name", place)))
