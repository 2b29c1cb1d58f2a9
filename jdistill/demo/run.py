"""Runs the demo: every command once, and a table of results."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill import verbs
from jdistill.config import apply_overrides, dump_yaml, parse
from jdistill.demo.config import MAX_LENGTH, DemoConfig, demo_recipe, packaged_teacher
from jdistill.demo.text import write_text
from jdistill.evaluate import SideName, evaluate, format_table, rows_per_second
from jdistill.export.verify import Verification
from jdistill.model import Model, load
from jdistill.recipe import Recipe
from jdistill.store import Store
from jdistill.student import Student
from jdistill.verbs.evaluate import make_evaluators, recorded

Figures = dict[str, float]

SPEED_TEXTS = 128
"""Number of texts for measuring speed."""


def run_demo(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Distil, evaluate, export and verify; returns the content of `summary.json`.

    Args:
      overrides: `key=value` options, see DemoConfig.

    Raises:
      UserError: for an unknown option, or if packages that the demo needs are missing.
    """
    began = time.perf_counter()
    options = parse(DemoConfig, apply_overrides({}, overrides), where="demo")
    out = Path(options.out)
    teacher = options.teacher or packaged_teacher()

    _say("1/5", "text: docstrings of the installed Python packages, parsed without running them")
    corpus = write_text(out / "text", train=options.docstrings, heldout=options.heldout)
    packages = len({docstring.package for docstring in corpus.train})
    _say("", f"{2 * len(corpus.train):,} training texts: summary and body of {len(corpus.train):,} docstrings")
    _say("", f"{2 * len(corpus.heldout):,} held-out texts of other modules; {packages} packages")
    example = corpus.heldout[0]
    _say("", f'for example, "{_short(example.summary)}" should find "{_short(example.body)}"')

    recipe = parse(Recipe, demo_recipe(options, teacher), where="demo")
    (out / f"{recipe.name}.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    _say("2/5", f"embed: {Path(teacher).parent.name if options.teacher is None else teacher} embeds every text once")
    verbs.embed(recipe)

    _say("3/5", f"train: the student learns the teacher's vectors ({recipe.run})")
    verbs.train(recipe)

    _say("4/5", "evaluate: each held-out summary should find its body among all held-out bodies")
    figures = measure(recipe, teacher=load(teacher), student=load(recipe.run))

    folder = out / recipe.name
    _say("5/5", f"export: {folder}, loaded again with sentence-transformers")
    verification = verbs.export(recipe.run, str(folder), results=figures)
    assert verification is not None  # the teacher ran, so sentence-transformers is installed
    summary = summarise(figures, verification, seconds=time.perf_counter() - began)
    summary["corpus"] = corpus.fingerprint
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(closing(summary, folder))
    return summary


def measure(recipe: Recipe, *, teacher: Model, student: Model) -> dict[str, Figures]:
    """Retrieval, fidelity, size and speed of the teacher and of the student before and after training, by name.

    The teacher is evaluated with its stored vectors. The student's metrics come from the run's own evaluations before
    the first and after the last step.
    """
    store = Store.open(recipe.store)
    stored = StoredVectors(store, "teacher")
    evaluations = {"teacher": evaluate(make_evaluators(recipe, store), stored)}
    evaluations |= {f"student {when}": metrics for when, metrics in recorded(recipe.run).items()}
    sample = store.texts.take(store.rows("heldout").documents[:SPEED_TEXTS, 0])
    speed = {"teacher": rows_per_second(_encoder(_cut(teacher)), sample, passes=2)}
    speed["student before"] = speed["student after"] = rows_per_second(_encoder(student), sample, passes=4)
    size = {"teacher": _size(teacher), "student before": _size(student), "student after": _size(student)}
    return {
        name: {
            "ndcg@10": metrics["search/ndcg@10"],
            "recall@1": metrics["search/recall@1"],
            "recall@10": metrics["search/recall@10"],
            "cosine": metrics.get("fidelity_teacher/cosine", math.nan),
            "parameters (M)": size[name] / 1e6,
            "MB": size[name] * 4 / 1e6,
            "rows/s": speed[name],
        }
        for name, metrics in evaluations.items()
    }


class StoredVectors:
    """An encode function that looks up a teacher's stored vectors of the held-out texts."""

    def __init__(self, store: Store, name: str) -> None:
        rows, vectors = store.rows("heldout"), store.teacher(name)
        assert rows.queries is not None
        self._known: dict[str, dict[str, np.ndarray]] = {
            "query": dict(zip(store.texts.take(rows.queries), vectors.take(rows.queries, "query"), strict=True)),
            "document": dict(
                zip(store.texts.take(rows.documents[:, 0]), vectors.take(rows.documents[:, 0], "document"), strict=True)
            ),
        }

    def __call__(self, texts: list[str], *, side: SideName) -> np.ndarray:
        """One vector per text."""
        return np.stack([self._known[side][text] for text in texts])


def summarise(figures: Mapping[str, Figures], verification: Verification, *, seconds: float) -> dict[str, Any]:
    """All results of the demo, as plain values."""
    teacher, after = figures["teacher"], figures["student after"]
    return {
        "models": {name: dict(values) for name, values in figures.items()},
        "share_of_teacher": after["ndcg@10"] / teacher["ndcg@10"],
        "speedup": after["rows/s"] / teacher["rows/s"],
        "largest_difference": verification.max_difference,
        "verified_with": verification.versions,
        "seconds": round(seconds, 1),
    }


def closing(summary: Mapping[str, Any], folder: Path) -> str:
    """The table of results, its interpretation, and how to use the model."""
    versions = ", ".join(f"{name} {version}" for name, version in summary["verified_with"].items())
    return "\n".join(
        [
            "",
            format_table(summary["models"]),
            f"The student keeps {summary['share_of_teacher']:.1%} of the teacher's nDCG@10 and encodes "
            f"{summary['speedup']:.1f} times as many rows per second.",
            f"The exported folder's vectors differ from the trained student's by at most "
            f"{summary['largest_difference']:.1e} ({versions}).",
            f"{summary['seconds']:.0f} seconds in total; results are saved in {folder.parent / 'summary.json'}.",
            "",
            f"Use it:  from sentence_transformers import SentenceTransformer; model = SentenceTransformer('{folder}')",
        ]
    )


def _encoder(model: Model) -> Any:
    return lambda texts, *, side: model.encode(texts)


def _cut(model: Model) -> Model:
    """The model with the students' maximum length, so that speeds are comparable."""
    config = model.student.config.model_copy(update={"max_length": MAX_LENGTH})
    return Model(Student(config, model.student.tokenizer), model.params)


def _size(model: Model) -> int:
    """Number of parameters used in inference."""
    params = {name: tree for name, tree in model.params.items() if name != "projection"}
    return sum(x.size for x in jax.tree.leaves(params))


def _short(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " ..."


def _say(number: str, text: str) -> None:
    print(f"{number:<4} {text}", flush=True)
