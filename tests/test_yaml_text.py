"""YAML within limits: what is read, what is refused, and that what is written reads back."""

import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jdistill.yaml_text import LARGEST, read_yaml, write_yaml

WORDS = [
    "2e-5",
    "12e4567",
    "1E3",
    "0x10",
    "0o17",
    "017",
    "1_000",
    "1:30",
    "on",
    "No",
    "y",
    "null",
    "~",
    "",
    "=",
    "<<",
    "-",
    "?",
]
WORDS += [
    "2024-01-01",
    "2001-12-14t21:59:43.10-05:00",
    ".inf",
    "-.INF",
    ".nan",
    "1.",
    ".5",
    "+1",
    "!x",
    "&a",
    "*a",
    "#",
    "a: b",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(WORDS)
SCALAR = TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans() | st.none()
VALUE = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=8
)


@given(VALUE)
@settings(max_examples=300, deadline=None)
def test_what_is_written_reads_back(value):
    text = write_yaml(value)
    assert repr(read_yaml(text)) == repr(value)
    assert repr(read_yaml(text.encode())) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: &d {x: 1, y: 2}\nb: {<<: *d, y: 3}\n", {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}}),
        ("a: {<<: {x: 1}, y: 2}\n", {"a": {"x": 1, "y": 2}}),
        ("a: {<<: [{x: 1}, {x: 2, z: 3}]}\n", {"a": {"x": 1, "z": 3}}),
        ("a: 1e-4\n", {"a": 1e-4}),
        ("a: 2024-13-45\n", {"a": "2024-13-45"}),
        ("a: =\n", {"a": "="}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        ("\ufeffa: 1\n", {"a": 1}),
        ("# nothing\n", None),
    ],
)
def test_what_is_read(text, value):
    assert read_yaml(text.encode()) == value


BOMB = "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "line 1"),
        ("a: 1\nb: 2\na: 3\n", "line 3: duplicate key 'a'. Keep one."),
        ("a: !!int abc\n", "line 1: abc is not a valid 'int'."),
        ("a: !!timestamp x\n", "line 1: x is not a valid 'timestamp'."),
        ("a: !!bool x\n", "is not a valid 'bool'"),
        ("a: 0x_\n", "0x_ is not a valid 'int'"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: " + "9" * 5000, "is not a valid 'int'"),
        (f"a: {2**63}", "does not fit into 64 bits"),
        ("x: &a {b: *a}\n", "an alias refers to itself"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested more than 50 levels deep"),
        ("".join(f"k{i}: 1\n" for i in range(20_000)), f"more than {LARGEST:,} keys and values"),
        (BOMB, "aliases expand this to more than"),
        (BOMB.replace("[", "{k: [").replace("]", "]}"), "aliases expand this to more than"),
        ('a: "\\0"\n', "contains a NUL character"),
        ('a: "\\ud83d"\n', "half a character"),
        ('a: 1\nb: "\\U00110000"\n', "line 2: an escape such as \\U is not a character"),
        ('a: "\\Uffffffff"\n', "line 1: an escape"),
        ("%YAML 1." + "9" * 5000 + "\n---\na: 1\n", "line 1: "),
        ("a: 1\n---\nb: 2\n", "document"),
        ("? [1]\n: 2\n", "a key is a list or a mapping"),
        ("a: \x07", "special characters are not allowed"),
    ],
)
def test_what_is_refused_and_how_fast(text, expected):
    start = time.monotonic()
    with pytest.raises(yaml.YAMLError) as caught:
        read_yaml(text.encode())
    assert expected in " ".join(str(caught.value).split())
    assert time.monotonic() - start < 5


def test_bytes_that_are_no_text():
    with pytest.raises(yaml.YAMLError, match="byte 0xff in line 2 is not UTF-8"):
        read_yaml(b"a: 1\nb: \xff\n")
    with pytest.raises(yaml.YAMLError, match="UTF-16"):
        read_yaml("a: 1".encode("utf-16"))


@pytest.mark.parametrize("word", ["0o7", "-0o17", "0089", "+08", "0_9", "1e5", "0x1F", "yes", "1:30", "2024-01-01"])
def test_what_another_reader_takes_for_a_number_is_quoted(word):
    assert write_yaml({"a": word}) == f"a: '{word}'\n"


@pytest.mark.parametrize("word", ["0042", "12:30", "2024-01-31", "-07", "1:2.5"])
def test_what_has_a_leading_zero_or_a_colon_is_text(word):
    assert read_yaml(word) == word
