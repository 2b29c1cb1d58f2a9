"""Corpus of docstrings of the installed Python packages, for training and evaluation without a download.

A docstring's summary serves as query, its body as document. Source files are parsed, never imported. Entire modules,
selected by a hash of their name, are held out; modules are read in the order of that hash until there are enough texts,
so equal package versions give an equal corpus on every machine.
"""

import ast
import hashlib
import importlib.util
import re
import sysconfig
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jdistill.config import UserError

STANDARD_LIBRARY = "stdlib"
PACKAGES = (
    STANDARD_LIBRARY,
    *("datasets", "flax", "fsspec", "grain", "huggingface_hub", "jax", "networkx", "numpy", "optax", "orbax", "pandas"),
    *("pydantic", "scipy", "sentence_transformers", "sklearn", "sympy", "torch", "transformers"),
)
"""Packages that `pip install jdistill[demo]` installs; other installed packages do not affect the corpus."""

HELDOUT_SHARE = 0.12
"""Fraction of the modules that are held out."""

PER_MODULE = 12
"""Maximum number of docstrings per module, so that a few huge modules do not dominate."""

_SKIPPED_FOLDERS = frozenset(
    [
        *("__pycache__", "_testing", "test", "testing", "tests", "generated"),
        *("_external", "_vendor", "extern", "external", "externals", "third_party", "vendor", "vendored"),  # copies
        *("dist-packages", "lib-dynload", "site-packages"),  # not part of the standard library
        *("ensurepip", "idlelib", "lib2to3", "turtledemo"),  # not in every build of it
        "models",  # model zoos, whose files repeat each other
    ]
)
_LARGEST_FILE = 200_000  # bytes; larger files are mostly tables, and slow to parse
_SUMMARY_WORDS = range(3, 41)
_FEWEST_BODY_WORDS = 8
_DEFINITION = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_DOCTEST = re.compile(
    r"^[ \t]*>>>.*\n?(?:[ \t]*\S.*\n?)*", re.MULTILINE
)  # the prompt and all lines up to the next blank one
_UNDERLINE = re.compile(r"^[ \t]*([-=~^*+#.])\1{2,}[ \t]*$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*\.\. [\w-]+::", re.MULTILINE)
_ROLE = re.compile(r":[\w:]+:`[~!]?([^`]*)`")
_SENTENCE_END = re.compile(r"(?<=[\w)\]'\"]{2}[.!?])\s+(?=[A-Z])")  # not after "e.g." or an initial
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORD = re.compile(r"[^\W\d_]{2,}")


class Docstring(NamedTuple):
    """The docstring of one module, class or function, as summary and body without line breaks and markup."""

    package: str
    module: str
    """Full module name: `torch.nn.functional`."""
    name: str
    """Qualified name within the module: `Adam.step`; empty for the module's own docstring."""
    summary: str
    body: str


@dataclass(frozen=True)
class Corpus:
    """Docstrings for training, and docstrings of other modules for evaluation."""

    train: list[Docstring]
    heldout: list[Docstring]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all texts in order, hexadecimal."""
        digest = hashlib.sha256()
        for split in (self.train, self.heldout):
            for docstring in split:
                digest.update("\0".join(docstring).encode() + b"\1")
            digest.update(b"\2")
        return digest.hexdigest()


def docstring_corpus(*, train: int = 8000, heldout: int = 1500, roots: Mapping[str, Path] | None = None) -> Corpus:
    """A fixed sample of the installed packages' docstrings, split by module.

    No summary or body occurs twice, ignoring case and punctuation, within or across splits.

    Args:
      train: number of docstrings for training, > 0.
      heldout: number of docstrings of held-out modules, > 0.
      roots: package name -> its folder; None: the folders of `PACKAGES`.
    Raises:
      UserError: if a package of `PACKAGES` is not installed, or there are too few docstrings.
    """
    roots = _installed(PACKAGES) if roots is None else roots
    modules = sorted((_number(module), module, package, path) for package, module, path in _modules(roots))
    seen: set[str] = set()
    # Held-out texts are chosen first, so that texts found on both sides are never trained on.
    splits = {
        "held-out": (heldout, [entry for entry in modules if entry[0] < HELDOUT_SHARE]),
        "training": (train, [entry for entry in modules if entry[0] >= HELDOUT_SHARE]),
    }
    found: dict[str, list[Docstring]] = {}
    for split, (wanted, entries) in splits.items():
        found[split] = _choose(entries, wanted, seen)
        if len(found[split]) < wanted:
            raise UserError(
                f"docstrings of {', '.join(roots)}: {wanted} {split} texts were requested, but the installed packages "
                f"have {len(found[split])}. Request fewer, or reinstall the packages with their .py files."
            )
    return Corpus(train=found["training"], heldout=found["held-out"])


def docstrings(source: bytes) -> Iterator[tuple[str, str]]:
    """`(name, docstring)` of a source file's module, classes, methods and top-level functions; runs no code.

    Empty if the file cannot be parsed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escape sequences in third-party code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        name, node = pending.pop()
        if isinstance(node, _DEFINITION):
            text = ast.get_docstring(node)
            if text:
                yield name, text
        if isinstance(node, ast.Module | ast.ClassDef | ast.If | ast.Try | ast.ExceptHandler):
            # Skip functions and expressions: they are most of the tree and contain no public docstrings.
            for child in ast.iter_child_nodes(node):
                own = getattr(child, "name", "") if isinstance(child, _DEFINITION) else ""
                pending.append((f"{name}.{own}".strip("."), child))


def split_docstring(text: str) -> tuple[str, str] | None:
    """A docstring's summary and body as prose; None if either is missing, too short or not prose.

    The summary is the first sentence of the first paragraph. Doctests, underlines and reStructuredText markup are
    removed.
    """
    text = _DOCTEST.sub("\n", text)
    text = _DIRECTIVE.sub("", _UNDERLINE.sub("", text))
    text = _ROLE.sub(r"\1", text).replace("`", "")
    first, _, rest = text.strip().partition("\n\n")
    sentence, *others = _SENTENCE_END.split(" ".join(first.split()), maxsplit=1)
    summary, body = sentence, " ".join([*others, *rest.split()])
    if len(summary.split()) not in _SUMMARY_WORDS or len(_WORD.findall(summary)) < _SUMMARY_WORDS.start:
        return None
    words = _WORD.findall(body)
    if len(words) < _FEWEST_BODY_WORDS or sum(map(len, words)) < 0.5 * len(body):
        return None
    if _SURROGATE.search(text):
        return None  # lone surrogates, which tokenizers reject
    return summary, body


def _choose(modules: Sequence[tuple[float, str, str, Path]], wanted: int, seen: set[str]) -> list[Docstring]:
    """The first `wanted` docstrings of `modules`, in order; adds their texts to `seen`."""
    chosen: list[Docstring] = []
    for _, module, package, path in modules:
        if len(chosen) >= wanted:
            break
        found = []
        for name, text in docstrings(_read(path)):
            parts = split_docstring(text)
            if parts is not None:
                found.append(Docstring(package, module, name, *parts))
        kept = 0
        for docstring in sorted(found, key=lambda d: _digest(*d)):
            texts = {_normal(docstring.summary), _normal(docstring.body)}
            if kept < PER_MODULE and not texts & seen:
                chosen.append(docstring)
                seen |= texts
                kept += 1
    return chosen[:wanted]


def _installed(packages: Sequence[str]) -> dict[str, Path]:
    """The folder of each package, found without importing it."""
    folders: dict[str, Path] = {}
    missing: list[str] = []
    for package in packages:
        spec = None if package == STANDARD_LIBRARY else importlib.util.find_spec(package)
        if package == STANDARD_LIBRARY:
            folders[package] = Path(sysconfig.get_path("stdlib"))
        elif spec is not None and spec.submodule_search_locations:
            folders[package] = Path(next(iter(spec.submodule_search_locations)))
        else:
            missing.append(package)
    if missing:
        raise UserError(
            f"docstring corpus: {', '.join(missing)} not installed, but the demo uses the docstrings of "
            f"{', '.join(packages)}. Run `pip install 'jdistill[demo]'`."
        )
    return folders


def _modules(roots: Mapping[str, Path]) -> Iterator[tuple[str, str, Path]]:
    """`(package, module, file)` of every module to read, in no particular order."""
    for package, root in roots.items():
        pending: list[tuple[Path, tuple[str, ...]]] = [(root, () if package == STANDARD_LIBRARY else (package,))]
        while pending:
            folder, parents = pending.pop()
            for entry in folder.iterdir():
                if entry.suffix == ".py" and entry.is_file():
                    last = () if entry.stem == "__init__" else (entry.stem,)
                    yield package, ".".join((*parents, *last)), entry
                elif "." not in entry.name and entry.name not in _SKIPPED_FOLDERS and entry.is_dir():
                    pending.append((entry, (*parents, entry.name)))


def _read(path: Path) -> bytes:
    """A source file; empty if it is too large or has no docstrings."""
    source = path.read_bytes() if path.stat().st_size <= _LARGEST_FILE else b""
    return source if b'"""' in source or b"'''" in source else b""


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _number(module: str) -> float:
    """A hash of the module name as a number in [0, 1), the same on every machine."""
    return int.from_bytes(_digest(module)[:8], "big") / 2**64
