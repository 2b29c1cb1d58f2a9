"""How fast and how well jdistill distils: one job, one line of JSON.

The job: a student made of some layers of a model learns that model's own vectors, computed once beforehand, from plain
sentences (`--loss mse`), or learns pairs contrastively without a teacher (`--loss mnrl`). AdamW, linear decay, 10 %
warm-up, clip at 1.0. Printed are rows per second of training, tokenisation and compilation included, and Spearman on
the STS files given, before and after.

    python scripts/benchmark.py --model MODEL_DIR --text sentences.parquet --sts sts_dev.parquet \
        --rows 6400 --batch 64 --loss mse

`sentences.parquet` has a column `text`, for `mnrl` the columns `anchor` and `positive`; STS files have `sentence1`,
`sentence2` and `score`. `--random` keeps the architecture and draws the weights at random, for a throughput figure
without any weights: then MODEL_DIR needs its tokenizer and config.json alone. `--threads N` computes with N processors.
"""

import argparse
import json
import os
import sys
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
    p.add_argument("--compile", action="store_true", help="without effect: every step is compiled")
    p.add_argument("--random", action="store_true")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()
