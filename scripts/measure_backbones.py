"""Benchmark of student.backbone: rows per second with the encoder trained, frozen, and cached.

    JAX_PLATFORMS=cpu python scripts/measure_backbones.py

A BERT of `--size` with random weights, followed by activation pooling and a dense head, on pairs of random tokens of
typical sentence lengths, on one device. Prints a line of JSON for computing the cache, and one for each backbone:
median milliseconds per step after `--warm` steps, including loading and transfer of the batch, and rows per second.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdistill.loader import Loader, LoaderConfig
from jdistill.losses import EmbedCosine
from jdistill.parallel import make_mesh, row_sharding
from jdistill.store import TokenTable
from jdistill.store.files import save_array, save_json
from jdistill.student import Architecture, Prompts, Student
from jdistill.student.encoders import BertConfig
from jdistill.student.head import Dense, Normalize, init_head
from jdistill.student.pooling import Activation
from jdistill.student.student import random_encoder
from jdistill.train.groups import Groups, frozen_paths
from jdistill.train.hidden_cache import hidden_table
from jdistill.train.optimizer import AdamW, make_optimizer
from jdistill.train.schedule import Linear
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step


class Rows:
    """Pairs of distinct texts."""

    scores = labels = None

    def __init__(self, count: int) -> None:
        self.queries = np.arange(count, dtype=np.int32)
        self.documents = np.arange(count, 2 * count, dtype=np.int32)[:, None]


class Teacher:
    """The same vector for all texts."""

    def __init__(self, width: int) -> None:
        self.vector = np.full(width, width**-0.5, np.float32)

    def take(self, ids: np.ndarray, side: str) -> np.ndarray:
        """The same vector for each text."""
        return np.broadcast_to(self.vector, (*ids.shape, len(self.vector)))


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--size", default="minilm-l6")
    p.add_argument("--rows", type=int, default=2048, help="pairs in the store")
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--length", type=int, default=32, help="maximum tokens per text; the mean is about half of it")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    p.add_argument("--backbones", nargs="+", default=["trained", "frozen", "cached"])
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--warm", type=int, default=3)
    return p.parse_args()


def make_tokens(folder: Path, texts: int, longest: int, vocabulary: int) -> TokenTable:
    """Random tokens, in the format of the store's token cache."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(4, longest / 8, texts).astype(np.int64), 4, longest)
    folder.mkdir(parents=True)
    save_array(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
    save_array(folder / "values.npy", random.integers(0, vocabulary, lengths.sum(), np.int32))
    save_json(folder / "manifest.json", {"pad_id": 0})
    return TokenTable(folder)


def make_student(a: argparse.Namespace, backbone: Any) -> tuple[Student, dict[str, Any]]:
    """A student with random weights and without tokenizer, as no text is read."""
    encoder = BertConfig(size=a.size)
    head = [Dense(in_features=encoder.width, out_features=encoder.width), Normalize()]
    architecture = Architecture(
        encoder=encoder,
        pooling=[Activation()],
        head=head,
        max_length=None,
        prompts=Prompts(),
        projections={},
        dropout=0.0,
        dtype=a.dtype,
        backbone=backbone,
    )
    tokenizer: Any = None
    params = {
        "encoder": random_encoder(architecture, jax.random.key(0)),
        "pooling": {"0": Activation().init(encoder, jax.random.key(1))},
        "head": init_head(head, encoder.width, jax.random.key(2)),
    }
    return Student(architecture, tokenizer), params


def main() -> None:
    a = arguments()
    with tempfile.TemporaryDirectory() as folder:
        for backbone in a.backbones:
            print(json.dumps(measure(a, backbone, Path(folder) / backbone)), flush=True)


def measure(a: argparse.Namespace, backbone: str, folder: Path) -> dict[str, Any]:
    """Milliseconds and rows per second of one backbone."""
    student, params = make_student(a, backbone)
    tokens = make_tokens(folder / "tokens" / "random", 2 * a.rows, a.length, student.config.encoder.vocab_size)
    hidden = None
    if backbone == "cached":
        began = time.perf_counter()
        table = hidden_table(folder, student, params, tokens, title="hidden states")
        seconds = time.perf_counter() - began
        size = sum(path.stat().st_size for path in (folder / "hidden").rglob("*.npy"))
        made = {"cache": a.size, "texts_per_second": round(2 * a.rows / seconds), "seconds": round(seconds, 1)}
        print(json.dumps(made | {"megabytes": round(size / 1e6)}), flush=True)
        hidden = {"query": table, "document": table}
    loader = Loader(
        LoaderConfig(shapes=1),
        rows=Rows(a.rows),  # pyright: ignore[reportArgumentType]
        queries=tokens,
        documents=tokens,
        teachers={"big": Teacher(student.width)},  # pyright: ignore[reportArgumentType]
        global_batch_size=a.batch,
        seed=0,
        hidden=hidden,  # pyright: ignore[reportArgumentType]
    )
    mesh, terms, total = make_mesh(jax.devices()[:1]), {"align": EmbedCosine(teacher="big")}, a.warm + a.steps
    groups = Groups(weight_decay=0.01, frozen=frozen_paths(student))
    optimizer = make_optimizer(AdamW(), Linear(), total, groups)
    step = make_train_step(student, terms, optimizer, groups, mesh, seed=0, total_steps=total)
    state, times = make_state(params, terms, optimizer, groups), []
    for batch in loader.stream(0, total):
        began = time.perf_counter() if not times else times[-1][1]
        state, metrics = step(state, jax.device_put(batch, row_sharding(mesh)))
        jax.block_until_ready(metrics)
        times.append((began, time.perf_counter()))
    median = float(np.median([end - begin for begin, end in times[a.warm :]]))
    lengths = "x".join(map(str, loader.shapes[0]))
    found = {"backbone": backbone, "size": a.size, "dtype": a.dtype, "rows": a.batch, "lengths": lengths}
    return found | {"milliseconds": round(1000 * median, 1), "rows_per_second": round(a.batch / median)}


if __name__ == "__main__":
    main()
