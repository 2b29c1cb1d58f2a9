"""The docstring corpus: the same texts everywhere, split by module, read without running anything."""

import itertools
import random
from collections import Counter
from pathlib import Path

import pytest

from jdistill.config import UserError
from jdistill.demo import docstrings as docstrings_module
from jdistill.demo.docstrings import Docstring, docstring_corpus, docstrings, split_docstring

NOUNS = ["matrix", "vector", "graph", "tensor", "string", "parser", "stream", "socket", "kernel", "polynomial"]
VERBS = ["Sort", "Merge", "Invert", "Read", "Write", "Compress", "Rotate", "Sample", "Compare", "Normalise"]
BODY = "Walks over every {noun} once and will {verb} it in place, so the caller keeps the only reference to number {i}."


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Path]:
    """Two made-up packages, 50 modules, each with two functions."""
    roots = {"alpha": tmp_path / "alpha", "beta": tmp_path / "beta"}
    for i, (verb, noun) in enumerate(itertools.product(VERBS, NOUNS)):
        folder = roots["alpha" if i % 4 < 2 else "beta"] / f"part{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        text = f'def {verb.lower()}_{noun}():\n    """{verb} the given {noun} fast.\n\n    ' + BODY + '\n    """\n\n\n'
        with (folder / f"{noun}{i // 20}.py").open("a") as file:
            file.write(text.format(verb=verb, noun=noun, i=i))
    return roots


def test_corpus_is_split_by_module_and_free_of_duplicates(tree: dict[str, Path]) -> None:
    corpus = docstring_corpus(train=60, heldout=6, roots=tree)
    assert (len(corpus.train), len(corpus.heldout)) == (60, 6)
    assert not {d.module for d in corpus.train} & {d.module for d in corpus.heldout}
    assert all(docstrings_module._number(d.module) < docstrings_module.HELDOUT_SHARE for d in corpus.heldout)
    texts = [text for d in corpus.train + corpus.heldout for text in (d.summary, d.body)]
    assert len(texts) == len(set(texts))
    known = next(d for d in corpus.train + corpus.heldout if d.name == "sort_graph")
    assert known.package in tree
    assert known.module.startswith(f"{known.package}.part")
    assert known.summary == "Sort the given graph fast."
    assert known.body == BODY.format(noun="graph", verb="Sort", i=2)


def test_order_and_place_of_the_files_do_not_matter(
    tree: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = docstring_corpus(train=60, heldout=6, roots=tree)
    listing = Path.iterdir
    monkeypatch.setattr(
        Path, "iterdir", lambda path: iter(random.Random(1).sample(found := [*listing(path)], len(found)))
    )
    moved = {name: root.rename(tmp_path / f"moved-{name}") for name, root in reversed(tree.items())}
    shuffled = docstring_corpus(train=60, heldout=6, roots=moved)
    assert shuffled == expected
    assert shuffled.fingerprint == expected.fingerprint


def test_other_files_do_not_change_the_sample_but_other_texts_change_the_fingerprint(tree: dict[str, Path]) -> None:
    expected = docstring_corpus(train=60, heldout=6, roots=tree)
    broken = {
        "syntax.py": b'"""Half a statement follows here.\n\nThis body has more than eight words in it."""\nx = (',
        "encoding.py": b'"""Not UTF-8 at all: \xff\xfe.\n\nThis body has more than eight words in it."""',
        "null.py": b'"""A null byte is here.\n\nThis body has more than eight words in it."""\0',
        "cookie.py": b'# coding: nonsense\n"""No such encoding.\n\nThis body has more than eight words in it."""',
        "note.txt": b'"""Not a Python file really.\n\nThis body has more than eight words in it."""',
    }
    for name, content in broken.items():
        (tree["alpha"] / name).write_bytes(content)
    skipped = tree["alpha"] / "tests"
    skipped.mkdir()
    (skipped / "test_graph.py").write_text('"""Test the graph parser.\n\nThis body has more than eight words in it."""')
    assert docstring_corpus(train=60, heldout=6, roots=tree) == expected

    for file in tree["beta"].rglob("*.py"):
        file.write_text(file.read_text().replace("the caller", "a caller"))
    assert docstring_corpus(train=60, heldout=6, roots=tree).fingerprint != expected.fingerprint


def test_nothing_is_imported_or_run(tree: dict[str, Path], tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for file in tree["alpha"].rglob("*.py"):
        file.write_text(file.read_text() + f"\nopen({str(trace)!r}, 'w')\n")
    docstring_corpus(train=60, heldout=6, roots=tree)
    assert not trace.exists()


def test_a_text_of_both_sides_is_held_out(tree: dict[str, Path]) -> None:
    before = docstring_corpus(train=60, heldout=6, roots=tree)
    known = before.heldout[0]
    for file in tree[before.train[0].package].rglob("*.py"):
        summary = known.summary.upper()
        copy = f'class Copy:\n    """{summary}\n\n    Quite another body of more than eight words in it.\n    """\n'
        file.write_text(file.read_text() + copy)
    corpus = docstring_corpus(train=60, heldout=6, roots=tree)
    summaries = [d.summary.casefold() for d in corpus.train]
    assert known.summary.casefold() not in summaries


def test_one_module_gives_a_few_texts_only(tree: dict[str, Path]) -> None:
    text = '\ndef f{i}():\n    """Explain the number {i} now.\n\n    ' + BODY + '\n    """\n'
    module = next(f"m{i}" for i in range(99) if docstrings_module._number(f"alpha.m{i}") < 0.02)  # comes first
    functions = [text.format(i=i, noun="number", verb="count") for i in range(60)]
    (tree["alpha"] / f"{module}.py").write_text("".join(functions))
    corpus = docstring_corpus(train=10, heldout=docstrings_module.PER_MODULE + 1, roots=tree)
    assert Counter(d.module for d in corpus.heldout)[f"alpha.{module}"] == docstrings_module.PER_MODULE
    (tree["alpha"] / f"{module}.py").write_text("".join(reversed(functions)))
    assert docstring_corpus(train=10, heldout=docstrings_module.PER_MODULE + 1, roots=tree) == corpus


def test_too_few_texts_and_missing_packages(tree: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"alpha, beta: 5000 training texts were requested"):
        docstring_corpus(train=5000, heldout=6, roots=tree)
    monkeypatch.setattr(docstrings_module, "PACKAGES", (docstrings_module.STANDARD_LIBRARY, "no_such_package_here"))
    with pytest.raises(UserError, match=r"no_such_package_here not installed.*pip install 'jdistill\[demo\]'"):
        docstring_corpus(train=10, heldout=2)


def test_installed_packages_give_the_same_corpus_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings_module, "PACKAGES", (docstrings_module.STANDARD_LIBRARY, "optax", "fsspec"))
    first, second = (docstring_corpus(train=200, heldout=20) for _ in range(2))
    assert first == second
    assert {d.package for d in first.train} == {"stdlib", "optax", "fsspec"}
    assert isinstance(first.train[0], Docstring)
    assert not any("site-packages" in d.module or ".test." in f".{d.module}." for d in first.train)


def test_docstrings_of_modules_classes_and_functions_but_not_of_what_is_inside_functions() -> None:
    source = b'''"""Module."""
import sys
if sys:
    def conditional():
        """Function."""
class Outer:
    """Class."""
    async def method(self):
        """Method."""
        def inner():
            """Hidden."""
try:
    pass
except ImportError:
    class Fallback:
        r"""Fall \\d back."""
def none(): pass
'''
    assert dict(docstrings(source)) == {
        "": "Module.",
        "conditional": "Function.",
        "Outer": "Class.",
        "Outer.method": "Method.",
        "Fallback": r"Fall \d back.",
    }
    assert list(docstrings(b'"""Invalid escape below."""\nx = "\\d"\n')) == [("", "Invalid escape below.")]
    assert list(docstrings(b"")) == []
    assert list(docstrings(b"(" * 100_000)) == []


def test_summary_is_the_first_sentence_and_markup_goes() -> None:
    text = """Return the largest
    value of `x`, e.g. A number. It may be
    :class:`~numpy.nan`.

    Parameters
    ----------
    x : array
        The values to look at, of any shape.

    >>> largest([1, 2])
    2

    .. note:: ``None`` is never returned.
    """
    assert split_docstring(text) == (
        "Return the largest value of x, e.g. A number.",
        "It may be numpy.nan. Parameters x : array The values to look at, of any shape. None is never returned.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "Two words.\n\nA body with more than eight words in it, really and truly.",
        "A fine summary line.",
        "A fine summary line.\n\nThe body is too short.",
        "A fine summary line.\n\n" + "| 1.0 | 2.0 | ab cd ef gh ij kl mn op |  3.0 | +------+------+ " * 3,
        "A fine summary line.\n\nA body of many words, one of which is half a character: \ud800.",
        "word " * 50 + ".\n\nA body with more than eight words in it, really and truly.",
    ],
    ids=["summary too short", "no body", "body too short", "table", "lone surrogate", "summary too long"],
)
def test_what_is_no_pair_of_prose_is_left_out(text: str) -> None:
    assert split_docstring(text) is None
