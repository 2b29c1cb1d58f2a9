"""Safe YAML: reads untrusted input within size limits, and writes YAML that reads back as the same value.

The dialect is PyYAML's YAML 1.1, including merge keys (`<<: *defaults`), with the numbers of YAML 1.2: `1e-4` is a
number, while 2024-01-01, 12:30 and 0042 (in YAML 1.1 a date, minutes and an octal number) are strings.
"""

import re
from collections.abc import Hashable, Iterator
from typing import Any

import yaml

LONGEST = 2**20
"""Maximum file size in bytes."""

LARGEST = 10_000
"""Maximum number of keys and values, aliases expanded; a recipe has a few hundred."""

DEEPEST = 50
"""Maximum nesting depth."""

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


class _Loader(yaml.SafeLoader):  # not CSafeLoader: libyaml rejects JSON's surrogate-pair escapes
    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; a value that does not fit its tag is a YAML error with a line number."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            raise _error(node, f"{_shown(node)} is not a valid '{tag}'") from error
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _error(node, f"the number {_shown(node)} does not fit into 64 bits")
        return _text(node, value) if isinstance(value, str) else value


class _Dumper(yaml.SafeDumper):
    """Quotes strings that this loader or another YAML reader would not read as strings."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    """Double-quote text with line breaks or invisible characters: only escapes preserve them."""
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
_Loader.yaml_implicit_resolvers = _RESOLVERS
for _name, _pattern in _NUMBERS.items():
    for _of in (_Loader, _Dumper):
        _of.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver(  # octal numbers of YAML 1.2, and decimal numbers with leading zeros
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?0o?[\d_]+$"), list("-+0")
)


def read_yaml(content: bytes | str) -> Any:
    """The value of one YAML document; None if it is empty.

    Args:
      content: text, or bytes in UTF-8 with or without a byte order mark.
    Raises:
      yaml.YAMLError: if it is not UTF-8 or not YAML; has a duplicate key, a self-referencing alias, a number beyond 64
        bits or a lone surrogate; or exceeds `LARGEST` values or `DEEPEST` levels. Takes time linear in `content`.
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
    """Refuse input that is too large or too deep, by looking at parser events only, before anything is built."""
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"has {len(text):,} characters; a recipe has a few thousand, and no more than 1 MiB.")
    depth = count = 0
    for event in _events(text):
        count += isinstance(event, yaml.NodeEvent)
        if count > LARGEST:
            raise yaml.YAMLError(f"has more than {LARGEST:,} keys and values; a recipe has a few hundred.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                line = event.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: nested more than {DEEPEST} levels deep; a recipe has about six.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _events(text: str) -> Iterator[yaml.Event]:
    r"""Parser events of a text. Numbers that crash PyYAML's scanner, such as "\\Uffffffff", become YAML errors."""
    loader = _Loader(text)
    try:
        while loader.check_event():
            yield loader.get_event()
    except (ValueError, OverflowError) as error:
        reason = "an escape such as \\U is not a character, or a version is not a number"
        raise yaml.YAMLError(f"line {loader.line + 1}: {reason}.") from error
    finally:
        loader.dispose()


def _check_nodes(root: yaml.Node) -> None:
    """Refuse duplicate keys, self-referencing aliases, and aliases that expand beyond the size limit."""
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
            raise _error(node, f"aliases expand this to more than {LARGEST:,} values; a recipe has a few hundred")
        return total

    size(root)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[Hashable] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _error(key, "a key is a list or a mapping, expected a scalar")
        if (key.tag, key.value) in seen and key.tag != "tag:yaml.org,2002:merge":
            raise _error(key, f"duplicate key {key.value!r}. Keep one")
        seen.add((key.tag, key.value))


def _text(node: yaml.Node, value: str) -> str:
    """Join surrogate pairs, as JSON writes characters beyond 16 bits, into whole characters."""
    if "\0" in value:
        raise _error(node, "contains a NUL character")
    try:
        return value.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError as error:
        raise _error(node, "contains a lone surrogate (half a character)") from error


def _shown(node: yaml.Node) -> str:
    text = str(node.value) if isinstance(node, yaml.ScalarNode) else "this"
    return text if len(text) <= 40 else text[:37] + "..."


def _error(node: yaml.Node, problem: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {node.start_mark.line + 1}: {problem}.")
