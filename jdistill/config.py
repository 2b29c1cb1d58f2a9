"""Typed configuration: frozen pydantic models, YAML files, `key=value` overrides and helpful errors.

A config is validated once, after merging file and overrides. User errors are raised as `UserError`, whose message is
one paragraph: where, what is wrong, what is expected, what to do.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from jdistill.outside import Outside
from jdistill.yaml_text import DEEPEST, LONGEST, read_yaml, write_yaml


class UserError(ValueError):
    """A user error, explained in one paragraph. The command line prints it without a traceback and exits with 2."""


class Config(BaseModel):
    """Base of every config section: rejects unknown keys, immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True, allow_inf_nan=False
    )


class Kind(Config):
    """Base of what `kind` tells apart in a recipe; a class that does not say its own is called by its place."""

    kind: str

    @model_validator(mode="before")
    @classmethod
    def _called_by_its_place(cls, content: Any) -> Any:
        if isinstance(content, dict) and "kind" not in content and cls.model_fields["kind"].is_required():
            return {"kind": f"{cls.__module__}:{cls.__qualname__}", **content}
        return content


def _expanded(path: str) -> str:
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"{found.split('/')[0]!r} is not a user of this machine. Write the full path.")
    return found


PathText = Annotated[str, AfterValidator(_expanded)]
"""A path with `~` expanded, or a hub id."""

C = TypeVar("C", bound=Config)

BRANCHES = {"str", "int", "float", "bool", "none", "constrained-str", "constrained-int", "constrained-float"}
"""Pydantic's names for the branches of a union of plain types, as they occur in error locations."""

TAGS = ("kind", "by")
"""Discriminator keys of unions."""

MISTAKES = 20
"""Maximum number of errors listed per file."""

_OTHER_BRANCH = ("list_type", "literal_error", "model_attributes_type")
"""Mistakes that a value makes of a branch of a union which is of another shape."""

_SHAPES = {list: "a list", dict: "a mapping"}


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
      UserError: if the file is missing, is not YAML or does not contain a mapping.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a YAML file. Name the file in it.")
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], n=1)
        hint = f" Did you mean '{path.parent / near[0]}'?" if near else ""
        raise UserError(f"{path}: no such file.{hint}")
    try:
        with path.open("rb") as file:
            start = file.read(LONGEST + 1)
        if len(start) > LONGEST:  # most likely data or weights
            raise UserError(f"{path}: is larger than {LONGEST:,} bytes; expected a recipe of a few thousand bytes.")
        content = read_yaml(start)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {_one_line(error)}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict):
        held = "is empty" if content is None else f"contains {_SHAPES.get(type(content), 'a single value')}"
        raise UserError(f"{path}: {held}, expected a mapping of sections such as 'student:'.")
    return content


def apply_overrides(content: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `content` with `key.path=value` strings applied; values are parsed as YAML.

    Raises:
      UserError: if an override is not of the form `key=value`.
    """
    merged = _copy(content)
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path:
            raise UserError(f"override {override!r}: expected key=value, for example train.steps=500.")
        *parents, last = path.split(".")
        if not all((*parents, last)) or len(parents) > DEEPEST:
            raise UserError(
                f"override {_shown(override)}: {_shown(path)} is not a key; expected one such as train.steps."
            )
        section = merged
        for key in parents:
            if not isinstance(section.get(key), dict):
                section[key] = {}
            section = section[key]
        try:
            section[last] = read_yaml(text)
        except yaml.YAMLError as error:
            raise UserError(
                f"override {_shown(override)}: the value is not valid YAML: {_one_line(error)} Quote text that "
                f"contains colons, brackets or quotes: {path}='\"...\"'."
            ) from error
    return merged


def parse(model: type[C], content: Mapping[str, Any], *, where: str) -> C:
    """Validate `content` as a `model`; `where` (a file, or "command line") starts every message.

    Raises:
      UserError: listing all errors.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UserError(explain(error, model, where=where)) from error


def load_config(model: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Load a config from a YAML file and apply `key=value` overrides."""
    return parse(model, apply_overrides(load_yaml(path), overrides), where=str(path))


def dump_yaml(config: Config) -> str:
    """The full config, defaults included, as YAML that `load_config` reads back to an equal value."""
    return write_yaml(config.model_dump(mode="json"))


def explain(error: ValidationError, model: type[BaseModel], *, where: str) -> str:
    """Format a validation error as lines of `where: key.path: what is wrong. What to do.`, one per error."""
    lines = []
    mistakes = _told(error.errors(), model)
    for item in mistakes[:MISTAKES]:
        path, sections = _walk(model, item["loc"])
        section = sections[0] if sections else None
        if item["type"] == "extra_forbidden":
            lines.append(f"{where}: {path}: unknown key.{_did_you_mean(str(item['loc'][-1]), section)}")
        elif item["type"] == "missing":
            lines.append(f"{where}: {path}: missing. {_expected(section, str(item['loc'][-1]))}".rstrip())
        elif item["type"] in ("union_tag_invalid", "union_tag_not_found"):
            context = item.get("ctx", {})
            key = str(context.get("discriminator")).strip("'")
            members = _walk(model, (*item["loc"], key))[1]
            tags = sorted({_tag(m) for m in members} - {""})
            tag = context.get("tag")
            near = difflib.get_close_matches(str(tag), tags, n=1) if tag is not None else []
            hint = f" Did you mean '{near[0]}'?" if near else f" Expected one of: {', '.join(tags)}."
            problem = f"unknown {key} {tag!r}." if tag is not None else f"has no '{key}'."
            lines.append(f"{where}: {path}: {problem}{hint}")
        elif item["type"] == "value_error":
            lines.append(f"{where}: {path + ': ' if path else ''}{item.get('ctx', {}).get('error')}")
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            quotes = isinstance(item["input"], int | float) and item["type"] == "string_type"
            hint = " Put it in quotes if it is text." if quotes else ""
            lines.append(f"{where}: {path}: is {_shown(item['input'])}; {message}.{hint}")
    if len(mistakes) > MISTAKES:
        lines.append(f"{where}: and {len(mistakes) - MISTAKES:,} more errors.")
    return "\n".join(lines)


def _told(mistakes: Sequence[Any], model: type[BaseModel]) -> list[Any]:
    """Mistakes without those of the branches of a union that were not meant, where the one that was has its own."""
    paths = [_walk(model, item["loc"])[0] for item in mistakes]
    meant = [path for path, item in zip(paths, mistakes, strict=True) if item["type"] not in _OTHER_BRANCH]
    return [
        item
        for path, item in zip(paths, mistakes, strict=True)
        if item["type"] not in _OTHER_BRANCH or not any(f"{other}.".startswith(f"{path}.") for other in meant)
    ]


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())


def _copy(content: Any) -> Any:
    return {key: _copy(value) for key, value in content.items()} if isinstance(content, Mapping) else content


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _walk(model: type[BaseModel], location: Sequence[Any]) -> tuple[str, list[type[BaseModel]]]:
    """The dotted path as the user writes it, and the models that may define its last key."""
    section: Any = model
    shown: list[str] = []
    for i, key in enumerate(location):
        if get_origin(section) is dict:  # user-chosen names, which may equal a `kind`
            shown.append(str(key))
            section = get_args(section)[1]
            continue
        candidates = _models(section)
        named = {kind: cls for outside in _outsides(section) for kind, cls in outside.found.items()}
        if key in named:
            section = named[key]
            continue
        tags = {m: _tag(m) for m in candidates}
        if key in tags.values() and key not in {f for m in candidates for f in m.model_fields}:
            section = next(m for m, tag in tags.items() if tag == key)  # pydantic inserts the union member's tag
            continue
        if key in {m.__name__ for m in candidates} or key in BRANCHES or (isinstance(key, str) and "[" in key):
            continue  # the branch of a plain union
        shown.append(str(key))
        if i < len(location) - 1:
            field = next((m.model_fields[key] for m in candidates if key in m.model_fields), None)
            section = field.rebuild_annotation() if field is not None else section
    return ".".join(shown), _models(section)


def _tag(model: type[BaseModel]) -> str:
    """The discriminator value that selects this member of a union; empty if none."""
    fields = (model.model_fields[key] for key in TAGS if key in model.model_fields)
    return next((str(field.default) for field in fields if not field.is_required()), "")


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _outsides(annotation: Any) -> list[Outside]:
    """What says that classes of other packages may stand here."""
    if isinstance(annotation, Outside):
        return [annotation]
    return [outside for part in get_args(annotation) for outside in _outsides(part)]


def _did_you_mean(key: str, section: type[BaseModel] | None) -> str:
    if section is None:
        return ""
    fields = list(section.model_fields)
    near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else f" Known keys: {', '.join(fields)}."


def _expected(section: type[BaseModel] | None, key: str) -> str:
    field = section.model_fields.get(key) if section is not None else None
    return field.description or "" if field is not None else ""
