"""What the processes of one run agree on: turns, numbers, files, and whose rows are whose. Alone, it is plain."""

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
"""Longest wait for process 0 where it makes something for all. It may take hours, and if it dies, everyone is ended."""
SEEN_SECONDS = 60
"""So long a file that process 0 has written may stay unseen elsewhere: NFS remembers for a while what was not there."""

_calls = itertools.count()  # every process waits at the same places in the same order, so the numbers are equal


@contextmanager
def process_0_first() -> Iterator[None]:
    """Process 0 does what is inside before all others: what it writes on a shared disk, they find there."""
    if jax.process_index() != 0:
        wait_for_all()
    yield
    if jax.process_index() == 0:
        wait_for_all()


def wait_for_all() -> None:
    """Return when every process has called this as often as this one, without a word to the devices."""
    call = next(_calls)
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost  # it speaks to JAX's coordination service, which has no public barrier

    multihost.get_barrier_sync_fn()(key=f"jdistill/{call}", timeout_ms=WAIT_SECONDS * 1000)


def check_shared(path: Path) -> None:
    """Every process sees a file that process 0 has just written; all must call this.

    Raises:
      UserError: if it does not appear here.
    """
    wait_for_all()
    end = time.monotonic() + SEEN_SECONDS
    while not path.is_file():
        if time.monotonic() > end:
            raise UserError(
                f"run at {path.parent}: process 0 has written {path.name} there, but here it is not to be seen. Put "
                "`run` on a disk that all hosts share, and give all of them the same path."
            )
        time.sleep(0.5)


def as_process_0(values: Mapping[str, float]) -> dict[str, float]:
    """The numbers of process 0, bit by bit, on every process; all of them give the same names."""
    if jax.process_count() == 1:
        return dict(values)
    bits = np.asarray([*values.values()], np.float64).view(np.uint32)  # JAX would round a float64
    numbers = np.asarray(multihost_utils.broadcast_one_to_all(bits)).view(np.float64)
    return dict(zip(values, numbers.tolist(), strict=True))


def local_copy(tree: PyTree[Array]) -> PyTree[Array]:
    """The whole arrays on one device of this process, wherever their parts lie; every process must call it.

    Computing with them needs no other process: what is done to them may differ from process to process.
    """

    def local(x: Array) -> Array:
        if not x.is_fully_replicated:
            mesh = x.sharding.mesh  # pyright: ignore[reportAttributeAccessIssue]
            x = jax.jit(jnp.copy, out_shardings=NamedSharding(mesh, PartitionSpec()))(x)
        return x.addressable_data(0)

    return jax.tree.map(local, tree)


def host_share(mesh: Mesh) -> tuple[int, int]:
    """Which contiguous part of a batch's rows lies on this process's devices: `(index, count)`.

    A mesh may order devices otherwise than processes are numbered, such as along a ring of a TPU slice.

    Raises:
      UserError: if the devices of a process do not stand next to each other in `mesh`, or are fewer than another's.
    """
    owners = [device.process_index for device in mesh.devices.flat]
    order = list(dict.fromkeys(owners))
    each = len(owners) // len(order)
    if owners != [process for process in order for _ in range(each)]:
        raise UserError(
            f"devices: the {len(order)} processes do not hold equal, contiguous parts of the mesh's {len(owners)} "
            f"devices (owners in order: {owners}). Start one process per host on equal hosts."
        )
    return order.index(jax.process_index()), len(order)
