"""Time and memory of InfoNCE with streamed vs. dense scores: value and gradient, on this machine's devices.

    python scripts/measure_contrast.py --rows 4096
    python scripts/measure_contrast.py --rows 32768 --no-time
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python scripts/measure_contrast.py --rows 4096 --devices 8

Prints a line of JSON per variant: dense (one score matrix) and streamed (jdistill's loss); on several devices streamed
only, with candidates gathered or passed around a ring. Memory is what the compiled program needs per device in addition
to inputs and outputs; time, by the clock and of all cores together, is the minimum of several interleaved runs.
"""

import argparse
import json
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jdistill.losses import InfoNCE, Matryoshka
from jdistill.parallel import make_mesh, make_objective, row_sharding
from jdistill.types import Batch, PairEmbeddings, Tokens, Vectors

TEMPERATURE = 0.05
PLAIN = {
    "q2d": InfoNCE(temperature=TEMPERATURE),
    "symmetric": InfoNCE(temperature=TEMPERATURE, directions=("q2d", "d2q"), partition="per_direction"),
}


def dense(name: str) -> Callable[..., jax.Array]:
    """The textbook loss: all scores at once."""

    def loss(queries: jax.Array, documents: jax.Array) -> jax.Array:
        q, d = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (queries, documents))
        scores = jnp.matmul(q, d.T, precision=jax.lax.Precision.HIGHEST) / TEMPERATURE
        rows = jax.nn.logsumexp(scores, axis=1) - jnp.diag(scores)
        columns = jax.nn.logsumexp(scores, axis=0) - jnp.diag(scores)
        return rows.mean() if name == "q2d" else (0.5 * (rows + columns)).mean()

    return loss


def streamed(
    name: str, mesh: Mesh, gathered_bytes: int, block: int, prefixes: tuple[int, ...]
) -> Callable[..., jax.Array]:
    """The loss as used in training, in blocks of candidates; with prefixes inside a matryoshka."""
    loss = PLAIN[name].model_copy(update={"block": block})
    if prefixes:
        loss = Matryoshka(loss=loss, dims=prefixes)
    objective = make_objective({"contrast": loss}, mesh, gathered_bytes=gathered_bytes)

    def value(queries: jax.Array, documents: jax.Array) -> jax.Array:
        n = queries.shape[0]
        numbers = jnp.arange(n)
        tokens = Tokens(jnp.zeros((n, 1, 1), jnp.int32), jnp.ones((n, 1, 1), bool))
        batch = Batch(None, tokens, {}, None, numbers, numbers[:, None])
        vectors = Vectors(PairEmbeddings(queries, documents[:, None]), {}, {})
        return objective(vectors, batch, {}, jnp.float32(0), jax.random.key(0))[0]

    return value


def main() -> None:
    """Compile all variants, then time them in turn."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=4096, help="pairs in the batch")
    options.add_argument("--width", type=int, default=384, help="width of the vectors")
    options.add_argument("--loss", choices=list(PLAIN), default="symmetric")
    options.add_argument(
        "--block", type=int, nargs="*", default=[512], help="candidates at a time; several are compared"
    )
    options.add_argument("--prefixes", type=int, nargs="*", default=[], help="of a matryoshka around the loss")
    options.add_argument("--devices", type=int, default=1)
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--no-time", action="store_true", help="compile only")
    chosen = options.parse_args()

    mesh = make_mesh(jax.devices()[: chosen.devices])
    bytes_of = {"streamed": 2**62} if chosen.devices == 1 else {"gathered": 2**62, "ring": 0}
    forms = {
        f"{form}, {block}": streamed(chosen.loss, mesh, most, block, tuple(chosen.prefixes))
        for form, most in bytes_of.items()
        for block in chosen.block
    }
    if chosen.devices == 1 and not chosen.prefixes:
        forms = {"dense": dense(chosen.loss), **forms}
    rows = row_sharding(mesh)
    like = jax.ShapeDtypeStruct((chosen.rows, chosen.width), jnp.float32, sharding=rows)
    programs = {
        name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(like, like).compile()
        for name, loss in forms.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in programs}
    if not chosen.no_time:
        random = np.random.default_rng(0)
        queries = random.standard_normal((chosen.rows, chosen.width), np.float32)
        documents = queries + random.standard_normal(queries.shape, np.float32)
        arrays = jax.device_put((queries, documents), rows)
        for _ in range(chosen.repeats + 1):
            for name, program in programs.items():
                began, cpu_began = time.perf_counter(), time.process_time()
                jax.block_until_ready(program(*arrays))
                seconds[name].append(time.perf_counter() - began)
                cpu_seconds[name].append(time.process_time() - cpu_began)
    for name, program in programs.items():
        memory = program.memory_analysis()
        print(
            json.dumps(
                {
                    "loss": chosen.loss,
                    "prefixes": chosen.prefixes,
                    "form": name,
                    "rows": chosen.rows,
                    "width": chosen.width,
                    "devices": f"{chosen.devices} x {jax.devices()[0].device_kind}",
                    "temporary_mb": round(memory.temp_size_in_bytes / 1e6, 1) if memory else None,
                    "milliseconds": round(1000 * min(seconds[name][1:]), 1) if seconds[name] else None,
                    "cpu_milliseconds": round(1000 * min(cpu_seconds[name][1:]), 1) if seconds[name] else None,
                }
            )
        )


if __name__ == "__main__":
    main()
