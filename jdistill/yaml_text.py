"""Reading YAML that anyone may have written, within limits, and writing YAML that reads back as the same value.

The dialect is YAML 1.1 as PyYAML reads it, with merge keys (`<<: *defaults`) and the numbers of YAML 1.2: `1e-4` is
one, while 2024-01-01, 12:30 and 0042, which YAML 1.1 takes for a date, for minutes and for octal digits, are strings.
"""

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

LONGEST = 2**20
"""Bytes that a file may have."""

LARGEST = 10_000
"""Keys and values that a file may hold, aliases expanded: a recipe has a few hundred."""

DEEPEST = 50
"""Levels of nesting that a file may have."""

_KEPT = ("bool", "null", "merge")
_RESOLVERS = {
    first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] in _KEPT]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NUMBERS = {
    "int": r"[-+]?(0|[1-9][\d_]*)|[-+]?0x[\da-fA-F_]+|[-+]?0b[01_]+",
    "float": r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+|[-+]?(\d[\d_]*\.[\d_]*|\.\d[\d_]*)"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):  # libyaml's refuses JSON's escapes of characters beyond 16 bits
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; one that its tag does not fit is an error of YAML, with its line."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            raise _error(node, f"{_shown(node)} is not a valid '{tag}'") from error
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _error(node, f"the number {_shown(node)} does not fit into 64 bits")
        return _text(node, value) if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Quotes a string that the loader, or another reader of YAML, would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Line ends and what cannot be seen stay themselves only between double quotes, as escapes."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
_Loader.yaml_implicit_resolvers = _RESOLVERS
for _name, _pattern in _NUMBERS.items():
    for _of in (_Loader, _Dumper):
        _of.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver(  # octal numbers of YAML 1.2, and decimal ones with leading zeros
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?0o?[\d_]+$"), list("-+0")
)


def read_yaml(content: bytes | str) -> Any:
    """The value of one YAML document; None if it is empty.

    Args:
      content: text, or bytes in UTF-8 with or without a byte order mark.
    Raises:
      yaml.YAMLError: if it is not UTF-8 or not YAML, holds a key twice, an alias of itself, a number beyond 64 bits or
        half a character, or more than `LARGEST` values or `DEEPEST` levels. Found in time linear in `content`.
    """
    text = _decoded(content) if isinstance(content, bytes) else content
    _check_size(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_nodes(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def write_yaml(value: Any) -> str:
    """`value`, made of dicts, lists, strings, numbers, booleans and None, as YAML that `read_yaml` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise yaml.YAMLError("is UTF-16 text, expected UTF-8. Save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"byte {content[error.start]:#04x} in line {line} is not UTF-8 text. Save the file as UTF-8."
        raise yaml.YAMLError(problem) from error


def _check_size(text: str) -> None:
    """Refuse what is too large or too deep before anything is made of it: both are found by reading tokens only."""
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"holds {len(text):,} characters; a recipe has a few thousand, and no more than 1 MiB.")
    depth = count = 0
    for event in _events(text):
        count += isinstance(event, yaml.NodeEvent)
        if count > LARGEST:
            raise yaml.YAMLError(f"holds more than {LARGEST:,} keys and values; a recipe has a few hundred.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                line = event.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: nested more than {DEEPEST} levels deep; a recipe has about six.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _events(text: str) -> Iterator[yaml.Event]:
    r"""What stands in a text; a number that PyYAML's scanner chokes on, as in "\\Uffffffff", is an error of YAML."""
    loader = _Loader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except (ValueError, OverflowError) as error:
        reason = "an escape such as \\U stands for no character, or a version is no number"
        raise yaml.YAMLError(f"line {loader.line + 1}: {reason}.") from error
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Refuse keys that stand twice, aliases of themselves, and aliases that stand for more than a file may hold."""
    sizes: dict[int, int] = {}
    opened: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in opened:
            raise _error(node, "an alias refers to itself")
        opened.add(id(node))
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = [part for pair in node.value for part in pair]
        sizes[id(node)] = total = 1 + sum(size(part) for part in parts)
        if total > LARGEST:
            raise _error(node, f"aliases make more than {LARGEST:,} values of this; a recipe has a few hundred")
        return total

    size(root)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _error(key, "a key is a list or a mapping, expected a word")
        if (key.tag, key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
            raise _error(key, f"key {key.value!r} stands twice. Keep one")
        seen.add((key.tag, key.value))


def _text(node: yaml.Node, value: str) -> str:
    """The string with characters beyond 16 bits whole, which JSON writes as two halves."""
    if "\0" in value:
        raise _error(node, "holds a NUL character")
    try:
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise _error(node, "holds half a character (a lone surrogate)") from error


def _shown(node: yaml.Node) -> str:
    text = str(node.value) if isinstance(node, yaml.ScalarNode) else "this"
    return text if len(text) <= 40 else text[:37] + "..."


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {node.start_mark.line + 1}: {problem}.")
