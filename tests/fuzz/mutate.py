"""Small damages to text, JSON-like trees, tables and weight files, drawn from a seeded generator."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

import pyarrow as pa

ODD_TEXT = (
    "",
    " ",
    "\0",
    "\ufeff",
    "\u200b",
    "\u0085",
    "\u2028",
    "\U0001f600",
    "é" * 300,
    "null",
    "NaN",
    "0042",
    "[1, 2",
    "=",
)
ODD_BYTES = (
    b"\0", b"\xff\xfe", b"\xed\xa0\xbd", b"\xef\xbb\xbf", b'"', b"'", b"\t", b"\n", b"\r", b"\r\n", b",",
    b"{", b"]", b": ", b"- ",
    b"*a", b"&a ", b"<<: ", b"!!python/object:os.system ", b"!!binary ", b"1e999",
    b"-", b"9" * 400, b"%", b"\x85", b"\xe2\x80\xa8",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, -(2**64), 0.5, 1e-320, 1e308, float("inf"),
    float("-inf"), float("nan"), [], {}, [[]], [None], {"kind": None}, {"a": {"b": {}}}, [1, "a", None],
    "x" * 5000, *ODD_TEXT,
)  # fmt: skip
DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "Q4")


def damage_bytes(rng: random.Random, content: bytes) -> bytes:
    """One to four edits: a flipped byte, a cut, a copied or an odd span, another encoding, other line ends."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = rng.choice(_BYTE_EDITS)(rng, content)
    return content


def damage_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of a tree of dicts and lists with one place replaced, removed, renamed, copied or wrapped."""
    tree = json.loads(json.dumps(tree))
    places = list(_places(tree))
    if not places:
        return rng.choice(ODD_VALUES)
    parent, key = rng.choice(places)
    edit = rng.randrange(6)
    if edit == 0:
        del parent[key]
    elif edit == 1 and isinstance(parent, dict):
        parent[rng.choice((str(key) + "s", str(key).upper(), *ODD_TEXT))] = parent.pop(key)
    elif edit == 2:
        other, name = rng.choice(places)
        parent[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    elif edit == 3:
        parent[key] = rng.choice(([parent[key]], {"value": parent[key]}, str(parent[key])))
    else:
        parent[key] = rng.choice(ODD_VALUES)
    return tree


def damage_weights(rng: random.Random, content: bytes) -> bytes:
    """A safetensors file with an edited header, other numbers, or damaged bytes."""
    edit = rng.randrange(4)
    if edit == 0:
        return damage_bytes(rng, content)
    (length,) = struct.unpack("<Q", content[:8])
    header, numbers = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = rng.choice(names)
    if edit == 1:
        header[name]["dtype"] = rng.choice(DTYPES)
    elif edit == 2:
        renamed = rng.choice(("x", name + ".weight", "model." + name, name.replace("weight", "gamma")))
        header[renamed] = header.pop(name)
    else:
        numbers = rng.choice((b"\xff\xff\xc0\x7f", b"\0\0\x80\x7f")) + numbers[4:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def damage_table(rng: random.Random, table: pa.Table) -> pa.Table:
    """A table with one column replaced by another type, by odd cells, renamed, doubled or dropped."""
    i = rng.randrange(table.num_columns)
    name, count = table.column_names[i], table.num_rows
    columns: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array(range(count)),
        lambda: pa.array([float("nan")] * count),
        lambda: pa.nulls(count),
        lambda: pa.array([[j] * rng.randrange(3) for j in range(count)]),
        lambda: pa.array([{"a": j} for j in range(count)]),
        lambda: pa.array([b"\xff\xfe"] * count),
        lambda: pa.array([str(j) for j in range(count)]).dictionary_encode(),
        lambda: pa.array([j * 10**9 for j in range(count)], pa.timestamp("ns")),
        lambda: pa.array([rng.choice(("text", None, *(t for t in ODD_TEXT))) for _ in range(count)]),
    )
    edit = rng.randrange(6)
    if edit == 0:
        return table.remove_column(i)
    if edit == 1:
        return table.append_column(name, table.column(i))
    if edit == 2:
        return table.slice(0, 0)
    return table.set_column(i, name, rng.choice(columns)())


def _places(tree: Any) -> Any:
    """Every (parent, key) of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def _flip(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]


def _cut(rng: random.Random, content: bytes) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 1, 3, 20, len(content)))
    return content[:at] + content[at + length :]


def _copy(rng: random.Random, content: bytes) -> bytes:
    at, length = rng.randrange(len(content) + 1), rng.choice((1, 10, 80))
    return content[: at + length] + content[at:]


def _insert(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(ODD_BYTES) + content[at:]


def _encode(rng: random.Random, content: bytes) -> bytes:
    encoding = rng.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32-le"))
    return content.decode("utf-8", "replace").encode(encoding, "replace")


def _line_ends(rng: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"")))


_BYTE_EDITS = (_flip, _flip, _cut, _cut, _copy, _insert, _insert, _insert, _encode, _line_ends)
