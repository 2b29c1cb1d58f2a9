"""How the rows of each device meet the candidates of all devices: gathered while they are few, else round a ring.

Gathered, every device holds all candidates at once. Round a ring it holds two devices' shares: the one it works on, and
the one that is on its way to it. What a device finds for a share (log-sum-exps forward, gradients backward) follows the
share round the ring, one hop behind it, so that no transfer has to wait for the work of its step: each transfer goes on
while the device computes, in both directions of the derivative. (Ring attention, Liu et al. 2023, arXiv:2310.01889, and
Inf-CL, Cheng et al. 2024, arXiv:2410.17243, send what was just computed.)
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jdistill.losses.blocks import HERE
from jdistill.losses.totals import merge_logsums
from jdistill.parallel.mesh import AXES
from jdistill.types import LogSum, Merge, Sweep, Visit

GATHERED_BYTES = 2**29
"""Up to here candidates are gathered. That takes two collectives where a ring takes two hops per device, each of which
hides behind the work only if a device has thousands of rows."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Gathered:
    """A Sweep by all-gather and reduce-scatter."""

    def __call__(self, visit: Visit, share: Any, staying: Any, nothing: Any, *, merge: Merge) -> tuple[Any, Any]:
        """See Sweep."""
        everything = jax.tree.map(lambda x: lax.all_gather(x, AXES, tiled=True), share)
        staying, found = visit(everything, staying)
        return staying, _SCATTER[merge](found)

    def mean(self, share: Float[Array, "p d"]) -> Float[Array, " d"]:
        """See Sweep."""
        return lax.pmean(share.mean(axis=0), AXES)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Ring:
    """A Sweep by neighbours handing shares on, in as many steps as there are devices."""

    def __call__(self, visit: Visit, share: Any, staying: Any, nothing: Any, *, merge: Merge) -> tuple[Any, Any]:
        """See Sweep."""

        def step(carry: tuple[Any, Any, Any], _: None) -> tuple[tuple[Any, Any, Any], None]:
            at_hand, found_before, staying = carry
            coming, found_before = _hand_on(at_hand), _hand_on(found_before)
            staying, found = visit(at_hand, staying)
            return (coming, _merged(found_before, found, merge), staying), None

        (_, found, staying), _ = lax.scan(step, (share, nothing, staying), length=lax.axis_size(AXES))
        return staying, _hand_on(found)

    def mean(self, share: Float[Array, "p d"]) -> Float[Array, " d"]:
        """See Sweep."""
        return lax.pmean(share.mean(axis=0), AXES)


def make_sweep(mesh: Mesh, candidates: int, widths: int, *, gathered_bytes: int = GATHERED_BYTES) -> Sweep:
    """The Sweep for a batch.

    Args:
      mesh: the devices.
      candidates: documents and hard negatives of the whole batch.
      widths: of the student's vectors, and of the teacher's where a loss scores those too.
      gathered_bytes: the most that gathered candidates and their gradients may take on a device.
    """
    if mesh.size == 1:
        return HERE
    return Gathered() if candidates * widths * 2 * 4 <= gathered_bytes else Ring()


def _hand_on(tree: Any) -> Any:
    """To the next device. Arrays of one shape go together: a TPU has only five transfers under way at a time."""
    size = lax.axis_size(AXES)
    onward = [(i, (i + 1) % size) for i in range(size)]
    leaves, form = jax.tree.flatten(tree)
    alike: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for i, leaf in enumerate(leaves):
        alike.setdefault((leaf.shape, leaf.dtype.itemsize), []).append(i)
    for (_, bytes_each), places in alike.items():
        bits = jnp.stack([lax.bitcast_convert_type(leaves[i], _INTEGERS[bytes_each]) for i in places])
        for i, moved in zip(places, lax.ppermute(bits, AXES, onward), strict=True):
            leaves[i] = lax.bitcast_convert_type(moved, leaves[i].dtype)
    return form.unflatten(leaves)


_INTEGERS = {2: jnp.int16, 4: jnp.int32}
"""Bytes of a number -> an integer of as many."""


def _is_logsum(x: Any) -> bool:
    return isinstance(x, LogSum)


def _merged(a: Any, b: Any, merge: Merge) -> Any:
    pairwise = {"sum": jnp.add, "logsumexp": merge_logsums}[merge]
    return jax.tree.map(pairwise, a, b, is_leaf=_is_logsum)


def _scatter_sum(found: Any) -> Any:
    return jax.tree.map(lambda x: lax.psum_scatter(x, AXES, tiled=True), found)


def _scatter_logsum(found: Any) -> Any:
    def scatter(x: LogSum) -> LogSum:
        largest = lax.pmax(x.largest, AXES)
        relative = x.total * jnp.exp(jnp.where(largest > -jnp.inf, x.largest - largest, -jnp.inf))
        total = lax.psum_scatter(relative, AXES, tiled=True)
        mine = lax.axis_index(AXES) * total.shape[0]
        return LogSum(lax.dynamic_slice_in_dim(largest, mine, total.shape[0]), total)

    return jax.tree.map(scatter, found, is_leaf=_is_logsum)


_SCATTER = {"sum": _scatter_sum, "logsumexp": _scatter_logsum}
