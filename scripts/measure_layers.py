"""Benchmark of scanned vs. unrolled encoder layers: compile time, time of a forward and backward pass, memory.

    JAX_PLATFORMS=cpu python scripts/measure_layers.py --size ettin-150m --rows 8 --length 128

Random weights and tokens, no optimizer. Prints a line of JSON for unrolled and for scanned layers: seconds to trace and
compile (without cache; CPU seconds are more reliable than wall time on a busy machine), temporary memory, bytes
accessed by the compiler's count, and CPU seconds of the fastest of `--passes` interleaved passes. With
`--topology v5e:2x2` it compiles for an absent chip, and runs nothing.
"""

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import SingleDeviceSharding

from jdistill.plan.topology import topology_devices
from jdistill.student.encoders import BertConfig, EncoderConfig, Gemma3Config, ModernBertConfig
from jdistill.student.encoders.base import Computing
from jdistill.student.packing import rows_of
from jdistill.types import Tokens

KINDS: dict[str, type[EncoderConfig]] = {"bert": BertConfig, "gemma3": Gemma3Config, "modernbert": ModernBertConfig}


def arguments() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kind", choices=KINDS, default="modernbert")
    p.add_argument("--size", default="ettin-150m", help="a size's name; '' for the defaults of the kind")
    p.add_argument("--layers", type=int, help="use the first N layers only")
    p.add_argument("--rows", type=int, default=8)
    p.add_argument("--length", type=int, default=128)
    p.add_argument("--remat", choices=("none", "products", "everything"), default="none")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    p.add_argument("--passes", type=int, default=3)
    p.add_argument("--topology")
    return p.parse_args()


def compiled(
    a: argparse.Namespace, config: EncoderConfig, tokens: Tokens, device: Any, *, scan: bool
) -> tuple[Any, dict[str, Any]]:
    """The compiled gradient of a sum over the last hidden states, and its compilation costs."""
    computing = Computing(jnp.dtype(a.dtype), remat=a.remat, scan=scan)
    graph, state = nnx.split(nnx.eval_shape(lambda: config.make_module(computing, rngs=nnx.Rngs(params=0))))
    there = SingleDeviceSharding(device)
    shapes, forms = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), (nnx.to_pure_dict(state), tokens)
    )

    def loss(params: Any, tokens: Tokens) -> jax.Array:
        hidden = nnx.merge(graph, params)(rows_of(tokens), layers=(config.depth,))[config.depth]
        return (hidden.astype(jnp.float32) ** 2).mean()

    began = time.perf_counter(), time.process_time()
    lowered = jax.jit(jax.grad(loss)).lower(shapes, forms)
    traced = time.perf_counter(), time.process_time()
    program = lowered.compile()
    ended = time.perf_counter(), time.process_time()
    memory, costs = program.memory_analysis(), program.cost_analysis() or {"bytes accessed": float("nan")}
    return program, {
        "kind": a.kind,
        "size": a.size,
        "layers": config.depth,
        "scan": scan,
        "trace_seconds": round(traced[0] - began[0], 1),
        "compile_seconds": round(ended[0] - traced[0], 1),
        "trace_cpu_seconds": round(traced[1] - began[1], 1),
        "compile_cpu_seconds": round(ended[1] - traced[1], 1),
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6) if memory is not None else None,
        "moved_gb": round(costs["bytes accessed"] / 1e9, 1),
    }


def main() -> None:
    a = arguments()
    config = KINDS[a.kind].model_validate({"size": a.size} if a.size else {})
    config = config if a.layers is None else config.with_layers(range(a.layers))
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 1000, size=(a.rows, a.length)).astype(np.int32)
    tokens = Tokens(jnp.asarray(ids), jnp.ones(ids.shape, bool))
    device = topology_devices(a.topology)[0] if a.topology else jax.devices()[0]
    forms = [compiled(a, config, tokens, device, scan=scan) for scan in (False, True)]
    seconds = [[], []] if a.topology or not a.passes else timed(a, config, tokens, [program for program, _ in forms])
    for (_, found), times in zip(forms, seconds, strict=True):
        print(json.dumps({**found, **({"pass_cpu_seconds": round(min(times), 2)} if times else {})}), flush=True)


def timed(a: argparse.Namespace, config: EncoderConfig, tokens: Tokens, programs: list[Any]) -> list[list[float]]:
    """CPU seconds of each pass of each program, without the first."""
    module = config.make_module(Computing(jnp.dtype(a.dtype)), rngs=nnx.Rngs(params=0))
    params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    seconds: list[list[float]] = [[] for _ in programs]
    for _ in range(a.passes + 1):
        for program, times in zip(programs, seconds, strict=True):
            began = time.process_time()
            jax.block_until_ready(program(params, tokens))
            times.append(time.process_time() - began)
    return [times[1:] for times in seconds]


if __name__ == "__main__":
    main()
