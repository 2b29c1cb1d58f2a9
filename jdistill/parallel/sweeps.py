"""Exchanges: pair the rows of each device with the candidates of all devices, by gathering or round a ring.

Gathered, every device has all candidates at once. Round a ring it has those of two devices: the current ones, and those
being received. The results for candidates (log-sum-exps forward, gradients backward) follow them round the ring one hop
behind, so no transfer depends on the computation of its step, and all transfers overlap with computation, forward and
backward. (Ring attention, Liu et al. 2023, arXiv:2310.01889, and Inf-CL, Cheng et al. 2024, arXiv:2410.17243, send what
was just computed.)
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jdistill.losses.blocks import SINGLE_DEVICE
from jdistill.losses.totals import LogSum, merge_logsums
from jdistill.parallel.mesh import AXES
from jdistill.types import CandidateExchange, ExchangeFn, Merge

GATHERED_BYTES = 2**29
"""Size up to which candidates are gathered. Gathering takes two collectives; a ring takes two hops per device, which
are hidden by computation only if a device has thousands of rows."""


@jax.tree_util.register_static
@dataclass(frozen=True)
class Gathered:
    """A CandidateExchange by all-gather and reduce-scatter."""

    def __call__(self, fn: ExchangeFn, local: Any, carry: Any, init: Any, *, merge: Merge) -> tuple[Any, Any]:
        """Gather all candidates, call `fn` once, reduce-scatter the results."""
        everything = jax.tree.map(lambda x: lax.all_gather(x, AXES, tiled=True), local)
        carry, results = fn(everything, carry)
        return carry, _SCATTER[merge](results)

    def mean(self, local: Float[Array, "p d"]) -> Float[Array, " d"]:
        """Mean over the candidates of all devices, which have equally many, `[d]`."""
        return lax.pmean(local.mean(axis=0), AXES)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Ring:
    """A CandidateExchange that passes candidates from neighbour to neighbour, in one step per device."""

    def __call__(self, fn: ExchangeFn, local: Any, carry: Any, init: Any, *, merge: Merge) -> tuple[Any, Any]:
        """One device's candidates per step, while the next ones and the last step's results are transferred."""

        def step(state: tuple[Any, Any, Any], _: None) -> tuple[tuple[Any, Any, Any], None]:
            # `earlier` are the results of the devices that had the current candidates before. They were left behind
            # when these moved on, one hop back, so both transfers are independent of this step's call of `fn`.
            current, earlier, carry = state
            # The first hop takes `init` to another device than that of its candidates. That changes nothing, since it
            # is empty: zeros, or log-sum-exps of nothing.
            upcoming, earlier = _send_on(current), _send_on(earlier)
            carry, results = fn(current, carry)
            return (upcoming, _merged(earlier, results, merge), carry), None

        (_, results, carry), _ = lax.scan(step, (local, init, carry), length=lax.axis_size(AXES))
        return carry, _send_on(results)  # the last hop, to the candidates' own device

    def mean(self, local: Float[Array, "p d"]) -> Float[Array, " d"]:
        """Mean over the candidates of all devices, which have equally many, `[d]`."""
        return lax.pmean(local.mean(axis=0), AXES)


def make_exchange(
    mesh: Mesh, candidates: int, widths: int, *, gathered_bytes: int = GATHERED_BYTES
) -> CandidateExchange:
    """The CandidateExchange for a batch.

    Args:
      mesh: the devices.
      candidates: number of documents and hard negatives of the whole batch.
      widths: width of the student's vectors, plus the teacher's if there is one.
      gathered_bytes: maximum size of gathered candidates and their gradients on a device.
    """
    if mesh.size == 1:
        return SINGLE_DEVICE
    # Vectors and gradients, 4 bytes per element: the size does not depend on the number of devices.
    return Gathered() if candidates * widths * 2 * 4 <= gathered_bytes else Ring()


def _send_on(tree: Any) -> Any:
    """Send to the next device. Arrays of equal shape are stacked, since a TPU has only five transfers in flight."""
    size = lax.axis_size(AXES)
    onward = [(i, (i + 1) % size) for i in range(size)]
    # As integers of the same size, bit by bit, floats and ids share a transfer. That has no derivative, and needs none:
    # exchanges run inside the custom VJP of blocks.py only.
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
"""Item size in bytes -> integer dtype of that size."""


def _is_logsum(x: Any) -> bool:
    return isinstance(x, LogSum)


def _merged(a: Any, b: Any, merge: Merge) -> Any:
    pairwise = {"sum": jnp.add, "logsumexp": merge_logsums}[merge]
    return jax.tree.map(pairwise, a, b, is_leaf=_is_logsum)


def _scatter_sum(found: Any) -> Any:
    return jax.tree.map(lambda x: lax.psum_scatter(x, AXES, tiled=True), found)


def _scatter_logsum(found: Any) -> Any:
    def scatter(x: LogSum) -> LogSum:
        # Relative to a common maximum, the sums of several devices can be added. The maximum is then known on all, and
        # each takes its part. Where no device has a score, -inf minus -inf would be NaN.
        largest = lax.pmax(x.largest, AXES)
        relative = x.total * jnp.exp(jnp.where(largest > -jnp.inf, x.largest - largest, -jnp.inf))
        total = lax.psum_scatter(relative, AXES, tiled=True)
        mine = lax.axis_index(AXES) * total.shape[0]
        return LogSum(lax.dynamic_slice_in_dim(largest, mine, total.shape[0]), total)

    return jax.tree.map(scatter, found, is_leaf=_is_logsum)


_SCATTER = {"sum": _scatter_sum, "logsumexp": _scatter_logsum}
