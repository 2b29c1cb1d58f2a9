"""Time of one AdamW update: the fused version of train/adamw.py beside a chain of optax, on random parameters.

    python scripts/measure_optimizer.py

17.0 M float32 parameters: a table of 30,522 x 384 and three matrices of 384 x 4,608. Both updates clip, report the
norms of gradient and change, and are compiled as in the train step; they run in turn. Prints CPU and wall time.
"""

import time
from typing import Any

from jdistill import backend


def main() -> None:
    """Compile both updates, run them in turn and print a line for each."""
    backend.prepare()
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from jdistill.train.groups import Groups
    from jdistill.train.optimizer import AdamW, make_optimizer
    from jdistill.train.schedule import Linear

    random = np.random.default_rng(0)

    def values(*shape: int) -> Any:
        return jnp.asarray(random.standard_normal(shape), jnp.float32)

    layers = {str(i): {"query": {"kernel": values(384, 4608)}} for i in range(3)}
    params = {"student": {"encoder": {"embeddings": {"words": values(30522, 384)}, "layers": layers}}}
    gradients = jax.tree.map(lambda x: 1e-3 * x, params)
    config = AdamW()
    forms = {
        "fused": make_optimizer(config, Linear(), 100, Groups(config.groups, config.weight_decay, ())),
        "optax": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4, weight_decay=0.01)),
    }
    states = {name: (jax.tree.map(jnp.copy, params), form.init(params)) for name, form in forms.items()}

    def step(form: optax.GradientTransformation) -> Any:
        def update(params: Any, state: Any, gradients: Any) -> Any:
            changes, state = form.update(gradients, state, params)
            moved, state = jax.lax.optimization_barrier((optax.apply_updates(params, changes), state))
            norms = optax.tree.norm(gradients), optax.tree.norm(jax.tree.map(jnp.subtract, moved, params))
            return (moved, state), norms

        return jax.jit(update, donate_argnums=(0, 1))

    steps = {name: step(form) for name, form in forms.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(30):
        for name, run in steps.items():
            began = time.process_time(), time.perf_counter()
            states[name], norms = run(*states[name], gradients)
            jax.block_until_ready((states[name], norms))
            times[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    for name, measured in times.items():
        cpu, wall = np.array(measured[3:]).T * 1e3  # the first ones compile
        print(f"{name}: CPU {cpu.min():.1f} ms at least, wall {np.median(wall):.1f} ms in the median")


if __name__ == "__main__":
    main()
