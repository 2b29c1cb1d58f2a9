"""Benchmark of training speed and quality: runs one job and prints one line of JSON.

A student made of some layers of a model learns that model's precomputed vectors from plain sentences (`--loss mse`), or
learns from pairs without a teacher (`--loss mnrl`). AdamW, linear decay, 10 % warmup, clipping at 1.0. Prints rows per
second of training, including tokenization and compilation, and Spearman on the STS files before and after training.

    python scripts/benchmark.py --model MODEL_DIR --text sentences.parquet --sts sts_dev.parquet \
        --rows 6400 --batch 64 --loss mse

`sentences.parquet` has a column `text`, for `mnrl` the columns `anchor` and `positive`; STS files have `sentence1`,
`sentence2` and `score`. `--random` uses random weights, to measure throughput only: MODEL_DIR then needs only tokenizer
and config.json. `--threads N` uses N CPU threads. For huge pages set GLIBC_TUNABLES=glibc.malloc.hugetlb=1, as for the
figures in README.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("--sts", nargs="*", default=[])
    p.add_argument("--rows", type=int, default=12800)
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--epochs", type=float, default=1)
    p.add_argument("--lr", type=float, default=1e-4)
    p.add_argument("--layers", type=int, nargs="*", default=[0, 2, 5])
    p.add_argument("--loss", choices=["mse", "mnrl", "cached_mnrl"], default="mse")
    p.add_argument("--mini-batch", type=int, default=64)
    p.add_argument("--max-length", type=int, default=128)
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--compile", action="store_true", help="no effect: every step is compiled")
    p.add_argument("--random", action="store_true")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()


def prepared_text(a: argparse.Namespace, folder: Path) -> tuple[str, dict[str, str]]:
    """Write the job's rows to a file; returns the file and its columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = ["text"] if a.loss == "mse" else ["anchor", "positive"]
    table = pq.read_table(a.text, columns=names)
    if a.loss == "mse":
        texts = list(dict.fromkeys(table["text"].to_pylist()))[: a.rows]
        table = pa.table({"text": texts})
        columns = {"text": "text"}
    else:
        table = table.slice(0, a.rows)
        columns = {"query": "anchor", "document": "positive"}
    pq.write_table(table, folder / "text.parquet")
    return str(folder / "text.parquet"), columns


def with_random_weights(path: str, folder: Path) -> str:
    """A folder with the tokenizer and architecture of `path` and random weights."""
    import jax

    from jdistill.export.hf import export_model
    from jdistill.student import StudentConfig, make_student
    from jdistill.student.encoders import MODEL_TYPES

    hf = json.loads(Path(path, "config.json").read_text())
    encoder = MODEL_TYPES[hf["model_type"]].from_hf(hf, where=path)
    config = StudentConfig.model_validate({"encoder": encoder.model_dump(), "tokenizer": path})
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
    return str(export_model(student, params, folder / "random"))


def recipe_of(a: argparse.Namespace, folder: Path) -> dict:
    text, columns = prepared_text(a, folder)
    pieces = -(-a.batch // a.mini_batch) if a.loss == "cached_mnrl" else 1
    losses = {
        "mse": {"match": {"kind": "embed_mse"}},
        "mnrl": {"contrast": {"kind": "info_nce", "temperature": 0.05}},
        "cached_mnrl": {"contrast": {"kind": "info_nce", "temperature": 0.05}},
    }
    return {
        "store": str(folder / "store"),
        "run": str(folder / "run"),
        "data": {"text": {"path": text, "columns": columns}},
        "teachers": {"teacher": {"model": a.model}} if a.loss == "mse" else {},
        "student": {
            "init": a.model,
            "keep_layers": a.layers or None,
            "max_length": a.max_length,
            "dtype": "bfloat16" if a.bf16 else "float32",
        },
        "losses": losses[a.loss],
        "loader": {"last_batch": "drop", "packing": a.max_length},
        "train": {
            "epochs": a.epochs,
            "global_batch_size": a.batch,
            "microbatches": pieces,
            "optimizer": {"peak_lr": a.lr, "weight_decay": 0.0},
        },
    }


def main() -> None:
    a = arguments()
    if a.threads:  # before XLA starts its threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: a.threads])
    import jax

    from jdistill.config import parse
    from jdistill.evaluate import STS
    from jdistill.model import Model
    from jdistill.parallel import make_mesh
    from jdistill.recipe import Recipe
    from jdistill.train import Run, train
    from jdistill.verbs import embed
    from jdistill.verbs.train import make_loader, make_run_student, open_store

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if a.random:
            a.model = with_random_weights(a.model, folder)
        recipe = parse(Recipe, recipe_of(a, folder), where="benchmark")
        began = time.perf_counter()
        embed(recipe)
        teacher_seconds = time.perf_counter() - began
        store = open_store(recipe)
        student, params = make_run_student(recipe, store)

        def spearman(params) -> dict[str, float]:
            model = Model(student, params)
            encode = lambda texts, *, side: model.encode(texts, batch_size=128)  # noqa: E731
            return {path: STS(path=path)(encode)["spearman_cosine"] for path in a.sts}

        before = spearman(params)
        began = time.perf_counter()
        run = Run(
            config=recipe.train,
            student=student,
            terms=recipe.terms(),
            loader=make_loader(recipe, store, student, pieces=jax.device_count() * recipe.train.microbatches),
            evaluate=None,
            folder=Path(recipe.run),
            recipe=recipe.model_dump(mode="json"),
            mesh=make_mesh(),
            seed=recipe.seed,
        )
        result = train(run, params)
        seconds = time.perf_counter() - began
        after = spearman(result.params)
    rows = result.step * a.batch
    figures = {
        "loss": a.loss,
        "rows": rows,
        "steps": result.step,
        "seconds": round(seconds, 2),
        "rows_per_second": round(rows / seconds, 1),
        "teacher_rows_per_second": round(a.rows / teacher_seconds, 1) if a.loss == "mse" else None,
        "device": str(jax.devices()[0]),
        "before": before,
        "after": after,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
