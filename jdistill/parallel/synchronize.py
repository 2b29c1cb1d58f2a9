"""Synchronisation of a run's processes: barriers, numbers, files and shares of a batch. Trivial with one process."""

import itertools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jdistill.config import UserError

WAIT_SECONDS = 24 * 3600
"""Longest wait for process 0 to prepare something for all. It may take hours; if it dies, all processes are ended."""
SEEN_SECONDS = 60
"""Seconds to wait until a file written by process 0 is visible: NFS caches for a while that a file did not exist."""

_calls = itertools.count()  # all processes reach the barriers in the same order, so the numbers agree


@contextmanager
def process_0_first() -> Iterator[None]:
    """Process 0 runs the body before all others, which then find what it has written to a shared disk."""
    if jax.process_index() != 0:
        wait_for_all()
    yield
    if jax.process_index() == 0:
        wait_for_all()


def wait_for_all() -> None:
    """Barrier over all processes, without using the devices."""
    call = next(_calls)
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost  # uses JAX's coordination service, which has no public barrier

    multihost.get_barrier_sync_fn()(key=f"jdistill/{call}", timeout_ms=WAIT_SECONDS * 1000)


def check_shared(path: Path) -> None:
    """Check that this process sees a file that process 0 has just written; all processes must call this.

    Raises:
      UserError: if the file does not appear within `SEEN_SECONDS`.
    """
    wait_for_all()
    end = time.monotonic() + SEEN_SECONDS
    while not path.is_file():
        if time.monotonic() > end:
            raise UserError(
                f"run at {path.parent}: process 0 has written {path.name} there, but this process cannot see it. Put "
                "`run` on a disk that all hosts share, and use the same path on all of them."
            )
        time.sleep(0.5)


def as_process_0(values: Mapping[str, float]) -> dict[str, float]:
    """Process 0's numbers, bitwise equal on every process; all must pass the same names."""
    if jax.process_count() == 1:
        return dict(values)
    bits = np.asarray([*values.values()], np.float64).view(np.uint32)  # JAX would round a float64
    numbers = np.asarray(multihost_utils.broadcast_one_to_all(bits)).view(np.float64)
    return dict(zip(values, numbers.tolist(), strict=True))


def local_copy(tree: PyTree[Array]) -> PyTree[Array]:
    """The whole arrays on one device of this process, however they are sharded; every process must call it.

    Computations with the copy involve no other process, so they may differ between processes.
    """

    def local(x: Array) -> Array:
        if not x.is_fully_replicated:
            mesh = x.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]
            # A copy with a replicated result: the compiler inserts the all-gather.
            x = jax.jit(jnp.copy, out_shardings=NamedSharding(mesh, PartitionSpec()))(x)
        return x.addressable_data(0)

    return jax.tree.map(local, tree)


def host_share(mesh: Mesh) -> tuple[int, int]:
    """The contiguous part of a batch's rows that is on this process's devices: `(index, count)`.

    The index may differ from the process index, since a mesh may order devices differently, for example along a ring of
    a TPU slice.

    Raises:
      UserError: if the devices of a process are not adjacent in `mesh`, or processes have different numbers of devices.
    """
    owners = [device.process_index for device in mesh.devices.flat]
    # Processes in the order of their first device. Equal, contiguous parts are then each process, `each` times.
    order = list(dict.fromkeys(owners))
    each = len(owners) // len(order)
    if owners != [process for process in order for _ in range(each)]:
        raise UserError(
            f"devices: the {len(order)} processes do not have equal, contiguous parts of the mesh's {len(owners)} "
            f"devices (owners in order: {owners}). Start one process per host on equal hosts."
        )
    return order.index(jax.process_index()), len(order)
