"""Time, memory and utilization of a run's training step on this machine's devices, with random weights and tokens.

    python scripts/measure_step.py configs/minilm-embed-cosine.yaml train.global_batch_size=4096 --length 64 \
        --try student.attention=xla --try student.attention=cudnn

Needs no store, teacher or weights: sizes are those of `jdistill plan`, the batch is already on the devices, and every
text has `--length` tokens unless `--mean` is below 1; with `loader.packing` or `loader.folding`, `--length` is the
mean. Every `--try` is the same step with other settings; all are compiled first and then run in turn, so that other
load affects them equally. Prints a line of JSON for each: milliseconds per step (median), rows and real tokens per
second, model FLOPs utilization (by formula, relative to the published peak), temporary memory, and seconds to compile.
"""

import argparse
import json
import statistics
import time
from typing import Any, NamedTuple

from jdistill import backend


class Timed(NamedTuple):
    """One variant of the step."""

    settings: list[str]
    job: Any
    program: Any
    state: Any
    batch: Any
    compile_seconds: float


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("overrides", nargs="*", metavar="key=value")
    p.add_argument("--length", metavar="N|QxD", help="padded tokens per text, or per query and document")
    p.add_argument("--mean", type=float, default=1.0, help="real tokens, as a fraction of the padded ones")
    p.add_argument("--try", dest="tries", action="append", default=[], metavar="key=value[,key=value]")
    p.add_argument("--steps", type=int, default=20)
    return p.parse_args()


def prepared(a: argparse.Namespace, settings: list[str]) -> Timed:
    """The compiled step, a random state and a random batch."""
    import jax

    from jdistill import verbs
    from jdistill.parallel import make_mesh, row_sharding
    from jdistill.plan.job import batch_form, state_form, trace
    from jdistill.verbs.plan import _lengths, make_job

    recipe = verbs.load_recipe(a.config, [*a.overrides, *settings])
    chips, widths = jax.device_count(), dict.fromkeys(recipe.teachers, 1024)
    job, _ = make_job(recipe, chips, length=_lengths(a.length), widths=widths)
    mesh = make_mesh(fsdp=job.fsdp)
    began = time.perf_counter()
    program = trace(job, mesh, job.global_batch_size).lower().compile()
    seconds = time.perf_counter() - began
    state = filled(state_form(job, mesh))
    form = batch_form(job, job.global_batch_size, chips)
    batch = jax.device_put(random_batch(form, job, a.mean, chips * job.microbatches), row_sharding(mesh))
    return Timed(settings, job, program, state, batch, seconds)


def filled(form: Any) -> Any:
    """A state of these shapes: small random matrices, norms of 1, zeros elsewhere."""
    import jax
    import jax.numpy as jnp

    def value(path: Any, x: Any) -> Any:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "opt_state" in name or not jnp.issubdtype(x.dtype, jnp.floating):
            return jax.device_put(jnp.zeros(x.shape, x.dtype), x.sharding)
        if x.ndim < 2:
            return jax.device_put(jnp.full(x.shape, float(name.endswith("scale")), x.dtype), x.sharding)
        return jax.device_put(0.05 * jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), x.sharding)

    return jax.tree.map_with_path(value, form)


def random_batch(form: Any, job: Any, mean: float, pieces: int) -> Any:
    """A random batch of these shapes; text lengths are evenly distributed, or equal with packing."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jdistill.loader import packing
    from jdistill.types import Tokens

    random = np.random.default_rng(0)

    def tokens(x: Any) -> Any:
        length = x.ids.shape[-1]
        low = max(1, int((2 * mean - 1) * length))
        lengths = random.integers(low, length + 1, (*x.ids.shape[:-1], 1))
        ids: Any = random.integers(1, job.student.config.encoder.vocab_size, x.ids.shape).astype(np.int32)
        prompt: Any = None if x.prompt is None else np.ones(x.prompt.shape, np.int32)
        places: Any = None
        if x.packed is not None:
            texts, (rows, capacity) = ids.size // length // pieces, (x.packed.shape[0] // pieces, x.packed.shape[1])
            equal = np.full(texts, min(length, capacity // -(-texts // rows)))
            lengths = np.full_like(lengths, equal[0])
            places = np.tile(packing.places(equal, padded=length, rows=rows, capacity=capacity), (pieces, 1))
        mask: Any = np.arange(length) < lengths
        return Tokens(ids, mask, places, prompt=prompt)

    def values(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jnp.integer):
            return np.arange(x.size, dtype=x.dtype).reshape(x.shape)
        return random.standard_normal(x.shape, np.float32)

    return jax.tree.map(
        lambda x: tokens(x) if isinstance(x, Tokens) else values(x), form, is_leaf=lambda x: isinstance(x, Tokens)
    )


def main() -> None:
    """Compile all variants, then run them in turn."""
    a = arguments()
    backend.prepare()
    import jax
    import numpy as np

    from jdistill.plan.chips import CHIPS
    from jdistill.plan.flops import model_flops

    device = jax.devices()[0].device_kind
    chip = next((chip for key, chip in CHIPS.items() if key in device.lower().replace(" ", "")), None)
    forms = [prepared(a, [s for s in tried.split(",") if s]) for tried in (a.tries or [""])]
    states, seconds = [form.state for form in forms], [[] for _ in forms]
    for turn in range(a.steps + 2):
        for i, form in enumerate(forms):
            began = time.perf_counter()
            states[i], metrics = form.program(states[i], form.batch)
            jax.block_until_ready(metrics)
            if turn > 1:
                seconds[i].append(time.perf_counter() - began)
            if turn == 0:
                assert np.isfinite(float(metrics.loss)), "the loss is not finite"
    for form, times in zip(forms, seconds, strict=True):
        step, rows = statistics.median(times), form.job.global_batch_size
        flops = model_flops(form.job, rows) / jax.device_count()
        sides = [x for x in (form.batch.queries, form.batch.documents) if x is not None]
        memory = form.program.memory_analysis()
        print(
            json.dumps(
                {
                    "config": a.config,
                    "settings": [*a.overrides, *form.settings],
                    "rows": rows,
                    "lengths": [int(x.ids.shape[-1]) for x in sides],
                    "devices": f"{jax.device_count()} x {device}",
                    "milliseconds": round(1000 * step, 2),
                    "spread": [round(1000 * min(times), 2), round(1000 * max(times), 2)],
                    "rows_per_second": round(rows / step),
                    "tokens_per_second": round(sum(int(np.asarray(x.mask).sum()) for x in sides) / step),
                    "mfu": round(flops / step / chip.flops, 4) if chip else None,
                    "temporary_gb": round(memory.temp_size_in_bytes / 1e9, 2) if memory else None,
                    "compile_seconds": round(form.compile_seconds, 1),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
