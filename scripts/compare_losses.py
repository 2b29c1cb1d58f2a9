"""Compares losses by training the same student on the same rows for the same number of steps with each of them.

The student is a small BERT with random weights, narrower than the teacher, so losses that compare vectors use a
projection. Each loss (or mixture) of LOSSES is trained at each learning rate, of which the best, by the correlation on
the STS file, is reported. Evaluation uses the student's own vectors, without projection, on held-out data. Writes
results.json, a Markdown table, and, with matplotlib (`pip install "jdistill[plots]"`), a plot of the learning curves.
Finished runs in the folder are reused.

    python scripts/compare_losses.py --teacher MODEL_DIR --pairs pairs.parquet --sts sts_dev.parquet \
        --triplets triplets_dev.parquet --out runs/losses

`pairs.parquet` has the columns `anchor` and `positive`; `--source` selects rows by their column `source`. The STS file
has `sentence1`, `sentence2`, `score`, the triplets `anchor`, `positive`, `negative`;
`--retrieval` is a folder of corpus, queries and qrels as parquet.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

LOSSES: dict[str, dict[str, dict[str, Any]]] = {
    "embed_cosine": {"a": {"kind": "embed_cosine"}},
    "embed_l2": {"a": {"kind": "embed_l2"}},
    "embed_mse": {"a": {"kind": "embed_mse"}},
    "embed_kl": {"a": {"kind": "embed_kl", "temperature": 0.05}},
    "teacher_info_nce": {"a": {"kind": "teacher_info_nce"}},
    "score_mse": {"a": {"kind": "score_mse", "weight": 200}},
    "score_zscore": {"a": {"kind": "score_zscore"}},
    "score_kl": {"a": {"kind": "score_kl", "temperature": 0.05, "teacher_temperature": 0.05}},
    "score_rank": {"a": {"kind": "score_rank", "weight": 20}},
    "info_nce": {"a": {"kind": "info_nce"}},
    "info_nce, false negatives by teacher": {"a": {"kind": "info_nce", "false_negatives": {"by": "teacher"}}},
    "sigmoid": {"a": {"kind": "sigmoid"}},
    "embed_cosine + info_nce 0.05": {"a": {"kind": "embed_cosine"}, "b": {"kind": "info_nce", "weight": 0.05}},
    "embed_cosine + score_kl": {
        "a": {"kind": "embed_cosine"},
        "b": {"kind": "score_kl", "temperature": 0.05, "teacher_temperature": 0.05},
    },
    "embed_cosine + spread_out": {"a": {"kind": "embed_cosine"}, "b": {"kind": "spread_out"}},
    "Stella: 10 cosine + 200 score_mse + 20 score_rank": {
        "a": {"kind": "embed_cosine", "weight": 10},
        "b": {"kind": "score_mse", "weight": 200},
        "c": {"kind": "score_rank", "weight": 20},
    },
}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--teacher", required=True)
    p.add_argument("--pairs", required=True)
    p.add_argument("--source", nargs="*", default=[])
    p.add_argument("--sts", required=True)
    p.add_argument("--triplets")
    p.add_argument("--retrieval")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--only", nargs="*", default=[], help="names of LOSSES; default: all")
    p.add_argument("--layers", type=int, nargs="*", default=[], help="start from these layers of the teacher instead")
    p.add_argument("--width", type=int, default=128, help="width of the random student")
    p.add_argument("--depth", type=int, default=2, help="layers of the random student")
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--max-length", type=int, default=64)
    p.add_argument("--lr", type=float, nargs="*", default=[1e-3])
    p.add_argument("--seed", type=int, nargs="*", default=[0], help="seeds to average over")
    return p.parse_args()


def chosen_rows(a: argparse.Namespace) -> str:
    """Write the pairs of the chosen sources to a file."""
    import pyarrow.parquet as pq

    path = a.out / "pairs.parquet"
    if not path.is_file():
        table = pq.read_table(a.pairs, filters=[("source", "in", a.source)] if a.source else None)
        pq.write_table(table.select(["anchor", "positive"]), path)
    return str(path)


def recipe_of(
    a: argparse.Namespace, pairs: str, losses: dict[str, Any], lr: float, seed: int, run: Path
) -> dict[str, Any]:
    evaluators: dict[str, Any] = {"sts": {"kind": "sts", "path": a.sts}}
    if a.triplets:
        evaluators["triplets"] = {"kind": "triplet", "path": a.triplets}
    if a.retrieval:
        files = {"corpus": "corpus", "queries": "queries", "qrels": "qrels"}
        evaluators["retrieval"] = {
            "kind": "retrieval",
            **{key: {"path": f"{a.retrieval}/{name}.parquet"} for key, name in files.items()},
        }
    shape = {"hidden_size": a.width, "num_hidden_layers": a.depth, "num_attention_heads": max(a.width // 32, 1)}
    student: dict[str, Any] = (
        {"init": a.teacher, "keep_layers": a.layers, "projection": "linear"}
        if a.layers
        else {"encoder": {"kind": "bert", **shape, "intermediate_size": 4 * a.width}, "tokenizer": a.teacher}
    )
    return {
        "seed": seed,
        "store": str(a.out / "store"),
        "run": str(run),
        "data": {"pairs": {"path": pairs, "columns": {"query": "anchor", "document": "positive"}}},
        "teachers": {"teacher": {"model": a.teacher, "max_length": a.max_length}},
        "student": {**student, "max_length": a.max_length},
        "losses": losses,
        "loader": {"last_batch": "drop", "packing": 2 * a.max_length},
        "train": {
            "steps": a.steps,
            "global_batch_size": a.batch,
            "evaluate_every": 0.2,
            "save_every": a.steps,
            "optimizer": {"peak_lr": lr, "weight_decay": 0.0},
        },
        "evaluate": evaluators,
    }


def slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


def measure(a: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Loss -> its best learning rate, final metrics and learning curve averaged over seeds, and their spread."""
    a.out.mkdir(parents=True, exist_ok=True)
    pairs = chosen_rows(a)
    results: dict[str, dict[str, Any]] = {}
    for name in a.only or LOSSES:
        tried = []
        for lr in a.lr:
            runs = [one_run(a, name, pairs, lr, seed) for seed in a.seed]
            metrics = {key: statistics.fmean(m[key] for m, _ in runs) for key in runs[0][0]}
            curve = [(step, statistics.fmean(c[i][1] for _, c in runs)) for i, (step, _) in enumerate(runs[0][1])]
            ends = [m[MAIN] for m, _ in runs]
            tried.append({"lr": lr, "metrics": metrics, "curve": curve, "spread": max(ends) - min(ends)})
        results[name] = max(tried, key=lambda x: x["metrics"][MAIN])
        (a.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    return results


def one_run(
    a: argparse.Namespace, name: str, pairs: str, lr: float, seed: int
) -> tuple[dict[str, float], list[tuple[int, float]]]:
    """Final metrics and learning curve; finished runs are only read."""
    from jdistill.config import parse
    from jdistill.recipe import Recipe
    from jdistill.verbs import embed, train

    run = a.out / "runs" / f"{slug(name)}-{lr:g}-{seed}"
    recipe = parse(Recipe, recipe_of(a, pairs, LOSSES[name], lr, seed, run), where=name)
    embed(recipe)
    metrics = train(recipe).evaluation
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return metrics, [(line["step"], line[f"evaluate/{MAIN}"]) for line in lines if f"evaluate/{MAIN}" in line]


MAIN = "sts/spearman_cosine"
SHOWN = {
    MAIN: "STS Spearman",
    "triplets/cosine_accuracy": "triplets",
    "retrieval/ndcg@10": "nDCG@10",
}


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown table, sorted by STS correlation, best first."""
    ordered = sorted(results.items(), key=lambda item: -item[1]["metrics"][MAIN])
    shown = {key: head for key, head in SHOWN.items() if all(key in x["metrics"] for _, x in ordered)}
    lines = ["| loss | " + " | ".join(shown.values()) + " | spread over seeds |", "|---" * (len(shown) + 2) + "|"]
    for name, x in ordered:
        values = " | ".join(f"{x['metrics'][key]:.4f}" for key in shown)
        lines.append(f"| {name} | {values} | {x['spread']:.4f} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot STS correlation over steps, one line per loss, the legend in the order of the last points."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.2), layout="constrained")
    axes = figure.subplots()
    ordered = sorted(results.items(), key=lambda item: -item[1]["curve"][-1][1])
    for i, (name, x) in enumerate(ordered):
        style = "-" if i % 2 == 0 else "--"
        axes.plot(*zip(*x["curve"], strict=True), style, color=colormaps["tab20"](i % 20), label=name, linewidth=1.6)
    axes.set_xlabel("steps")
    axes.set_ylabel("Spearman correlation on STS, held out")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path)


def main() -> None:
    a = arguments()
    results = measure(a)
    (a.out / "table.md").write_text(table(results))
    print(table(results))
    try:
        plot(results, a.out / "curves.svg")
    except ImportError:
        print('no plot: matplotlib is missing; pip install "jdistill[plots]"')


if __name__ == "__main__":
    main()
