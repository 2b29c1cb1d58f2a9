"""Padding and time of a batch's layouts: padded to buckets or packed, for several length distributions.

    JAX_PLATFORMS=cpu python scripts/measure_layouts.py --model MODEL_DIR --texts short sentences --pieces 1 8

Trains on random tokens with the lengths of `--texts`, `--batch` rows a step, cut into `--pieces` that are encoded one
after the other, as by microbatches or devices. Of each layout (`--layouts`, options of the section `loader`) every
shape's program is compiled, then all run in turn, `--rounds` times, so that other load affects them equally. Prints for
each: padding, number of programs, and the time of a step's forward and backward passes, without the optimizer: of each
shape the minimum over the rounds, CPU time and wall time, weighted by how often the shape occurs in an epoch.
"""

import argparse
import time
from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdistill.config import apply_overrides, parse
from jdistill.loader import Loader, LoaderConfig, Shape
from jdistill.student import StudentConfig, make_student
from jdistill.types import Tokens

ROWS = 6400


def lengths_of(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Tokens of each text: evenly distributed, or log-normal as those of sentences are."""
    even = {"short": (8, 32), "medium": (16, 64), "long": (32, 128)}
    if kind in even:
        low, high = even[kind]
        return rng.integers(low, high + 1, ROWS)
    return np.clip(np.round(np.exp(rng.normal(3.32, 0.5, ROWS))), 4, 128).astype(int)  # a mean of 31 tokens


class RandomTokens:
    """Random tokens of these lengths, as a token cache would give."""

    def __init__(self, lengths: np.ndarray):
        self.lengths = lengths.astype(np.int32)

    def pad(self, ids: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of these texts, padded to `length`, and the mask of real ones."""
        mask = np.arange(length) < self.lengths[ids][..., None]
        return np.where(mask, 1000 + (ids[..., None] + np.arange(length)) % 20_000, 0).astype(np.int32), mask


class PlainRows(NamedTuple):
    """Rows of one text each."""

    documents: np.ndarray
    queries: Any = None
    scores: Any = None
    labels: Any = None


class Layout:
    """One layout's batches of every shape, and their times."""

    def __init__(self, options: str, lengths: np.ndarray, batch: int, pieces: int):
        config = parse(LoaderConfig, apply_overrides({}, [o for o in options.split(",") if o]), where="--layouts")
        rows: Any = PlainRows(np.arange(ROWS, dtype=np.int32)[:, None])
        table: Any = RandomTokens(lengths)
        self.name = options or "buckets"
        self.pieces = pieces
        self.loader = Loader(
            config,
            rows=rows,
            queries=None,
            documents=table,
            teachers={},
            global_batch_size=batch,
            seed=0,
            pieces=pieces,
        )
        steps = range(self.loader.steps_per_epoch)
        planned: list[Shape] = [self.loader._planned(step)[1] for step in steps]
        self.often = Counter(planned)
        self.tokens = {shape: self._piece(planned.index(shape)) for shape in self.often}
        self.seconds: dict[Shape, list[tuple[float, float]]] = {shape: [] for shape in self.often}

    def _piece(self, step: int) -> Tokens:
        """The first piece of this step's batch."""
        documents = self.loader.batch(step).documents
        rows = len(documents.ids) // self.pieces
        packed = None if documents.packed is None else documents.packed[: len(documents.packed) // self.pieces]
        return Tokens(jnp.asarray(documents.ids[:rows, 0]), jnp.asarray(documents.mask[:rows, 0]), packed)

    def line(self) -> str:
        """The results as a line of a table."""
        total = sum(self.often.values())
        cpu, wall = (
            sum(min(x[i] for x in times) * self.often[shape] for shape, times in self.seconds.items()) / total
            for i in range(2)
        )
        padding = f"{self.loader.padding:.1%}, {len(self.often)}"
        return f"| `{self.name}` | {padding} | {self.pieces * cpu:.2f} s | {self.pieces * wall:.2f} s |"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--keep-layers", type=int, nargs="*", default=[0, 2, 5])
    p.add_argument("--texts", nargs="+", choices=("short", "medium", "long", "sentences"), default=["sentences"])
    p.add_argument("--pieces", type=int, nargs="+", default=[1])
    p.add_argument("--batch", type=int, default=256)
    p.add_argument("--layouts", nargs="+", default=["", "packing=128"])
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    config = parse(StudentConfig, {"init": a.model, "keep_layers": a.keep_layers, "max_length": 128}, where="student")
    student, params = make_student(config, teacher_widths={}, key=jax.random.key(0))
    gradient = jax.jit(jax.grad(lambda params, tokens: (student.encode(params, tokens)[:, 0] ** 2).sum()))
    for kind in a.texts:
        lengths = lengths_of(kind, np.random.default_rng(0))
        for pieces in a.pieces:
            fitting = [x for x in a.layouts if "packing" not in x or int(x.split("=")[1]) >= lengths.max()]
            layouts = [Layout(options, lengths, a.batch, pieces) for options in fitting]
            for turn in range(a.rounds + 1):  # the first compiles
                for layout in layouts:
                    for shape, tokens in layout.tokens.items():
                        began = time.process_time(), time.perf_counter()
                        jax.block_until_ready(gradient(params, tokens))
                        if turn:
                            took = time.process_time() - began[0], time.perf_counter() - began[1]
                            layout.seconds[shape].append(took)
            print(f"\n{kind}, {a.batch} rows in {pieces} pieces: layout | padding, programs | CPU time | wall time")
            print("\n".join(layout.line() for layout in layouts), flush=True)


if __name__ == "__main__":
    main()
