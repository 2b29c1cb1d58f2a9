"""Writes the demo's texts: training rows, held-out rows and a retrieval task."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from jdistill.demo.docstrings import Corpus, docstring_corpus


def write_text(folder: Path, *, train: int, heldout: int) -> Corpus:
    """Read the docstrings of the installed packages and write them as JSON lines.

    `train.jsonl` and `heldout.jsonl` have rows with `summary` and `body`; `corpus.jsonl`, `queries.jsonl` and
    `qrels.jsonl` define the task of finding each held-out body by its summary.
    """
    corpus = docstring_corpus(train=train, heldout=heldout)
    ids = [f"{i:05d}" for i in range(len(corpus.heldout))]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", corpus.train), ("heldout", corpus.heldout)):
        _write(folder / f"{name}.jsonl", (docstring._asdict() for docstring in part))
    pairs = list(zip(ids, corpus.heldout, strict=True))
    _write(folder / "corpus.jsonl", ({"id": i, "text": docstring.body} for i, docstring in pairs))
    _write(folder / "queries.jsonl", ({"id": i, "text": docstring.summary} for i, docstring in pairs))
    _write(folder / "qrels.jsonl", ({"qid": i, "docid": i, "score": 1} for i in ids))
    return corpus


def _write(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
