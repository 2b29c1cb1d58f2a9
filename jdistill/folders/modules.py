"""`modules.json` of a sentence-transformers folder: the classes of a model, and where each keeps its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jdistill.config import UserError
from jdistill.folders.files import read_json, read_list

ROUTERS = ("Router", "Asym")
"""Classes that hold modules of their own, by route."""


class Module(NamedTuple):
    """One module."""

    type: str
    """Dotted path of its class."""
    folder: Path
    """Where its files lie; it need not exist where a module has none."""
    name: str
    """What it is called in the file."""

    @property
    def cls(self) -> str:
        """Name of its class."""
        return self.type.rpartition(".")[2]

    @property
    def package(self) -> str:
        """Name of the outermost package of its class."""
        return self.type.partition(".")[0]


def modules_of(folder: Path) -> list[Module]:
    """The modules in their order; `[]` for a folder of transformers alone.

    Raises:
      UserError: if the file does not list modules, or a module's folder lies outside of the model's.
    """
    path = folder / "modules.json"
    return [_module(folder, entry, path) for entry in read_list(path)]


def all_modules(folder: Path) -> Iterator[Module]:
    """The modules, and those that routers among them hold.

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
        raise UserError(f"{path}: has no 'types' of the router's modules. Copy or download the model again.")
    return [_module(router.folder, {"type": kind, "path": name}, path) for name, kind in types.items()]


def _module(folder: Path, entry: Any, path: Path) -> Module:
    kind, place = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(place, str):
        raise UserError(
            f"{path}: expected of each module a 'type' and a 'path', as text; found {str(entry)[:80]}. Copy or "
            "download the model again."
        )
    if Path(place).is_absolute() or ".." in Path(place).parts:
        raise UserError(f"{path}: path {place!r} leads out of the folder. Expected a folder inside the model's.")
    return Module(kind, folder / place, str(entry.get("name", place)))
