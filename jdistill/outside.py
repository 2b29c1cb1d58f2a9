"""Losses, poolings and evaluators from users' own packages, named by `kind` in a recipe.

`kind: my_package.module:Class` names a class by module and name; an installed package can give its classes short names
by entry points. Importing a module runs its code, so only modules named in a recipe are imported. Model folders cannot
cause an import: they name poolings in a different way (`student/hf_folder`).
"""

import difflib
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Union, get_args

from pydantic import BaseModel, Field, GetCoreSchemaHandler
from pydantic_core import SchemaValidator, core_schema


@dataclass(frozen=True)
class Outside:
    """Annotates a union discriminated by `kind`, so that it also accepts classes from other packages.

    Args:
      group: entry point group in which packages register short names.
      base: base class of these classes, and the last member of the union.
      defines: names of the methods that a subclass must override.
    """

    group: str
    base: type[BaseModel]
    defines: tuple[str, ...]
    found: dict[str, type[BaseModel]] = field(default_factory=dict, compare=False, repr=False)
    """Kind -> class, for every kind from another package that this process has read."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """The schema of the built-in members; other values of `kind` are looked up with `find`."""
        classes = tuple(cls for cls in get_args(source) if cls is not self.base)
        own = {str(cls.model_fields["kind"].default) for cls in classes}
        inner = handler.generate_schema(Annotated[Union[classes], Field(discriminator="kind")])  # noqa: UP007

        def read(value: Any, members: Callable[[Any], Any]) -> Any:
            if isinstance(value, self.base):
                return members(value) if isinstance(value, classes) else value
            kind = value.get("kind") if isinstance(value, Mapping) else None
            if not isinstance(kind, str) or kind in own:
                return members(value)
            if ":" not in kind and not self._named(kind):
                return members(value) if not self._names() else _unknown(kind, [*own, *self._names()])
            cls = self.find(kind)
            # A union with one member, so that errors in its options are reported like those of built-in members.
            one = core_schema.tagged_union_schema({kind: _validated_by(cls)}, "kind")
            return SchemaValidator(one).validate_python(value)

        def write(value: Any, members: Callable[[Any], Any], info: Any) -> Any:
            outside = isinstance(value, self.base) and not isinstance(value, classes)
            return value.model_dump(mode=info.mode) if outside else members(value)

        return core_schema.no_info_wrap_validator_function(
            read,
            inner,
            serialization=core_schema.wrap_serializer_function_ser_schema(write, info_arg=True, schema=inner),
        )

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> Any:
        """The built-in members, or an object with any other `kind` and unknown options."""
        known = handler(schema)
        kinds = list(known.get("discriminator", {}).get("mapping", {}))
        other = {
            "type": "object",
            "description": f"From another package: `module:Class`, or the name of an entry point of {self.group}.",
            "properties": {"kind": {"type": "string", "not": {"enum": kinds}}},
            "required": ["kind"],
        }
        return {"anyOf": [known, other]}

    def find(self, kind: str) -> type[BaseModel]:
        """Import and return the class that a `kind` names.

        Raises:
          ValueError: saying what is wrong and what to do, if the class cannot be imported or is not suitable.
        """
        places = [kind] if ":" in kind else sorted({entry.value for entry in self._named(kind)})
        if len(places) > 1:
            named = " and ".join(places)
            raise ValueError(f"kind {kind!r} is the name of several classes: {named}. Write one of them as kind.")
        cls = _class_at(places[0], self.base)
        self._check(kind, cls)
        self.found[kind] = cls
        return cls

    def _named(self, kind: str) -> list[EntryPoint]:
        return [*entry_points(group=self.group, name=kind)]

    def _names(self) -> list[str]:
        return sorted({entry.name for entry in entry_points(group=self.group)})

    def _check(self, kind: str, cls: type[BaseModel]) -> None:
        missing = [name for name in self.defines if getattr(cls, name, None) is getattr(self.base, name, None)]
        if missing:
            raise ValueError(
                f"kind {kind!r}: {cls.__name__} does not define {missing[0]}, which every {self.base.__name__} of a "
                "recipe needs. Define it."
            )
        declared = cls.model_fields["kind"].annotation
        if declared is not str and kind not in get_args(declared):
            raise ValueError(
                f"kind {kind!r}: {cls.__name__} declares a kind of its own, so that it cannot be read under this one. "
                "Take `kind` out of the class."
            )


def _class_at(place: str, base: type[BaseModel]) -> type[BaseModel]:
    module_name, _, name = place.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise ValueError(f"kind {place!r}: expected module:Class, such as my_package.losses:MyLoss.")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"kind {place!r}: importing {module_name} failed: {error}. Install that package."
            ) from error
        raise ValueError(
            f"kind {place!r}: there is no module {error.name}. Install its package into {sys.prefix}, or put the "
            "folder that holds it on PYTHONPATH."
        ) from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"kind {place!r}: importing {module_name} failed: {reason}. Fix the module.") from error
    known = [each for each, cls in vars(module).items() if _derived(cls, base) and cls is not base]
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"Its {base.__name__}s: {', '.join(known) or 'none'}."
        raise ValueError(f"kind {place!r}: the module {module_name} has no {name}. {hint}")
    cls = getattr(module, name)
    if not _derived(cls, base):
        raise ValueError(
            f"kind {place!r}: {name} is not derived from {base.__module__}.{base.__name__}. Derive it, or name a class "
            "that is."
        )
    return cls


def _derived(value: Any, base: type[BaseModel]) -> bool:
    return isinstance(value, type) and issubclass(value, base)


def _validated_by(cls: type[BaseModel]) -> Any:
    return core_schema.no_info_plain_validator_function(cls.model_validate)


def _unknown(kind: str, known: list[str]) -> None:
    near = difflib.get_close_matches(kind, known, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Expected one of: {', '.join(sorted(known))}."
    raise ValueError(f"unknown kind {kind!r}. {hint}")
