"""Quality of a model directly after pruning, without training, for several ways of pruning.

    JAX_PLATFORMS=cpu python scripts/measure_pruning.py --model MODEL_DIR --texts texts.parquet --sts sts_dev.parquet

`texts` has a column `text` (or `--column`); a sample of its texts is read, and the tokens of all are counted. The STS
file has `sentence1`, `sentence2` and `score`. Prints a Markdown table: parameters and word embeddings in millions;
Spearman of cosines with the scores; and Spearman between the cosines of pruned and full model, over all pairs of the
file. A line of JSON follows for each vocabulary: the fraction of the file's texts whose tokens are all kept, and the
largest difference of their vectors from those of the full model.
"""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

import jax
import numpy as np

from jdistill.data import read_columns, text
from jdistill.evaluate.sts import STS, sts
from jdistill.model import Model
from jdistill.student import PruneConfig, StudentConfig, make_student
from jdistill.student.build import read_pretrained
from jdistill.student.pruning.narrow import LeastSquaresFit
from jdistill.student.pruning.prune import prune
from jdistill.student.pruning.texts import PruningTexts

WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "keep_layers: 3": {"keep_layers": 3},
    "width: {to: 256}": {"width": {"to": 256}},
    "width: {to: 256, by: pca}": {"width": {"to": 256, "by": "pca"}},
    "width: {to: 192}": {"width": {"to": 192}},
    "intermediate: 768": {"intermediate": 768},
    "intermediate: 768, nothing made up for": {"intermediate": 768},
    "vocabulary: {size: 10000}": {"vocabulary": {"size": 10_000}},
    "vocabulary: {size: 20000}": {"vocabulary": {"size": 20_000}},
    "all: 3 layers, 256, 768, 10000": {
        "keep_layers": 3,
        "width": {"to": 256},
        "intermediate": 768,
        "vocabulary": {"size": 10_000},
    },
    "encoder: {kind: static}": {"encoder": {"kind": "static"}},
    "encoder: {kind: static}, width: {to: 128}": {"encoder": {"kind": "static"}, "width": {"to": 128}},
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--texts", required=True)
    p.add_argument("--column", default="text")
    p.add_argument("--sts", required=True)
    p.add_argument("--only", default="", help="only variants whose name contains this, besides the full model")
    a = p.parse_args()
    read = PruningTexts.of(list(read_columns(a.texts, {a.column: text})[a.column]))
    columns = read_columns(a.sts, {"sentence1": text, "sentence2": text})
    texts = [*columns["sentence1"], *columns["sentence2"]]
    whole, notes = None, []
    print("| cut | parameters, M | words, M | STS | cosines of the whole | seconds |\n|---|---|---|---|---|---|")
    for name, options in WAYS.items():
        if name != "whole" and a.only not in name:
            continue
        model, seconds = made(a.model, options, read, plain="nothing" in name)
        whole = whole or (model, model.encode(texts, batch_size=128))
        vectors = whole[1] if name == "whole" else model.encode(texts, batch_size=128)
        score = STS(path=a.sts)(lambda texts, *, side, model=model: model.encode(texts, batch_size=128))
        alike = sts(vectors[: len(texts) // 2], vectors[len(texts) // 2 :], cosines(whole[1]))
        figures = (score["spearman_cosine"], alike["spearman_cosine"])
        print(f"| `{name}` | {sizes(model)} | {' | '.join(f'{x:.4f}' for x in figures)} | {seconds:.0f} |", flush=True)
        if set(options) == {"vocabulary"}:
            notes.append({"cut": name, **covered(model, vectors, *whole, texts)})
    for note in notes:
        print(json.dumps(note))


def made(init: str, options: Mapping[str, Any], texts: PruningTexts, *, plain: bool) -> tuple[Model, float]:
    """The pruned model, and the seconds it took."""
    began = time.perf_counter()
    start = {name: value for name, value in options.items() if name in ("keep_layers", "encoder")}
    cuts = {name: value for name, value in options.items() if name not in start}
    config = StudentConfig.model_validate({"init": init, **start})
    pretrained = read_pretrained(config)
    assert pretrained is not None
    how = patch("jdistill.student.pruning.narrow.least_squares", _nothing_made_up_for) if plain else patch.dict({})
    if cuts:
        section = PruneConfig.model_validate({"init": init, "output": f"{init}-pruned", **cuts})
        with how:
            pretrained = prune(section, config, pretrained, texts).model
        config = StudentConfig(init=init)
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0), pretrained=pretrained)
    return Model(student, params), time.perf_counter() - began


def _nothing_made_up_for(moments: Any, encode: np.ndarray, *, biased: bool) -> LeastSquaresFit:
    return LeastSquaresFit(encode.T, np.zeros(len(encode)))


def sizes(model: Model) -> str:
    """Parameters and word embeddings, in millions."""
    encoder = model.params["encoder"]
    words = encoder["words"] if "words" in encoder else encoder["embeddings"]["words"]
    return f"{sum(x.size for x in jax.tree.leaves(model.params)) / 1e6:.2f} | {words.size / 1e6:.2f}"


def cosines(vectors: np.ndarray) -> np.ndarray:
    """The cosine of each pair."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit[: len(unit) // 2] * unit[len(unit) // 2 :]).sum(1)


def covered(model: Model, vectors: np.ndarray, whole: Model, wholes: np.ndarray, texts: list[str]) -> dict[str, float]:
    """Fraction of texts with unchanged tokens, and the largest difference of their vectors."""
    kept = set(model.student.tokenizer.ids)
    named = {i: token for token, i in whole.student.tokenizer.ids.items()}
    rows = whole.student.tokenizer.encode(texts, None)
    same = np.array([{named[i] for i in row} <= kept for row in rows])
    return {"covered": float(same.mean()), "largest_difference": float(np.abs(vectors - wholes)[same].max())}


if __name__ == "__main__":
    main()
