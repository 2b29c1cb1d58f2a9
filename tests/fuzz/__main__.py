"""`make fuzz`: damaged recipes, data files and model folders; no traceback, no exit code but 0 and 2.

Every input is made from its kind and seed alone, so a fault is repeated by `python -m tests.fuzz --only yaml:17`, which
prints what the command printed.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

COUNTS = {"yaml": 300, "data": 200, "folder": 100}


def main() -> int:
    """Run all inputs, a line for each fault, and a summary; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    for kind, count in COUNTS.items():
        parser.add_argument(f"--{kind}", type=int, default=count, metavar="N", help=f"inputs of this kind ({count})")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input of each kind")
    parser.add_argument("--only", metavar="KIND:SEED", help="run one input and show what was printed")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.only:
        kind, _, seed = options.only.partition(":")
        inputs = [(kind, int(seed))]
    else:
        inputs = [(kind, options.seed + i) for kind in COUNTS for i in range(getattr(options, kind))]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        template = Path(scratch) / "template"
        _prepare(template)
        # Processes that have imported everything are forked for each input, before any of them starts JAX.
        with multiprocessing.get_context("fork").Pool(options.workers) as pool:
            outcomes = list(pool.imap_unordered(partial(_run, template, Path(scratch)), inputs))
    outcomes.sort(key=lambda outcome: (outcome.kind, outcome.seed))
    faults = [outcome for outcome in outcomes if outcome.fault]
    for outcome in faults:
        last = outcome.output.strip().splitlines()[-1:] or [""]
        print(f"{outcome.kind}:{outcome.seed}  {outcome.command!r}: {outcome.fault}: {last[0][:200]}")
    if options.only:
        print(outcomes[0].output)
    codes = Counter((outcome.kind, outcome.code) for outcome in outcomes)
    for kind in sorted({outcome.kind for outcome in outcomes}):
        shown = ", ".join(f"{count} x exit {code}" for (of, code), count in sorted(codes.items()) if of == kind)
        print(f"{kind}: {shown}")
    slowest, largest = max(o.seconds for o in outcomes), max(o.peak for o in outcomes)
    print(f"slowest {slowest:.1f} s, largest {largest / 2**30:.2f} GiB, {time.monotonic() - start:.0f} s in all")
    print(f"{len(outcomes) - len(faults)} passed, {len(faults)} failed")
    return 1 if faults else 0


def _prepare(template: Path) -> None:
    """The whole inputs, and everything imported that commands import."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }
    os.environ["OMP_NUM_THREADS"] = "1"  # a fork of a process with more would wait for threads that it does not have
    import sentence_transformers  # noqa: F401
    import torch

    from jdistill import backend, verbs  # noqa: F401
    from tests.fuzz.cases import write_template

    torch.set_num_threads(1)
    backend.prepare()
    template.mkdir()
    write_template(template)


def _run(template: Path, scratch: Path, case: tuple[str, int]):
    from tests.fuzz.run import run_one

    kind, seed = case
    return run_one(kind, seed, template, scratch / f"{kind}-{seed}")


if __name__ == "__main__":
    sys.exit(main())
