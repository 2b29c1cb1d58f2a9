"""Trees of arrays: which of their leaves are differentiated, and over which mesh axes they vary."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

Tree = PyTree
"""Of arrays. Not `PyTree[Array]`, since checking leaves made tests of losses take half as long again."""


def length(tree: Tree) -> int:
    """Length of the first axis, which must be equal for all arrays."""
    (count,) = {x.shape[0] for x in jax.tree.leaves(tree)}
    return count


def is_float(x: Array) -> bool:
    """Whether the array has a derivative."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def partition(tree: Tree) -> tuple[Tree, Tree]:
    """The tree with its floating-point leaves only, and with the others only; None in place of the rest.

    The first is also the form of a cotangent: custom_vjp takes None as zero.
    """
    floats = jax.tree.map(lambda x: x if is_float(x) else None, tree)
    return floats, jax.tree.map(lambda x: None if is_float(x) else x, tree)


def combine(floats: Tree, others: Tree) -> Tree:
    """Inverse of `partition`."""
    # None must count as a leaf, or tree.map would take it for an empty subtree, and the structures would differ.
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda x: x is None)


def varying_zero(tree: Tree) -> Float[Array, ""]:
    """A scalar 0 that varies over every mesh axis over which any of the values varies."""
    # full_like copies the mesh axes over which x varies, but none of its values, so no NaN comes in.
    leaves = [x for x in jax.tree.leaves(tree) if is_float(x)]
    return jnp.asarray(sum(lax.full_like(x, 0, dtype=jnp.float32, shape=()) for x in leaves))


def zeros_like(tree: Tree, zero: Float[Array, ""]) -> Tree:
    """Zeros of these shapes, varying over the mesh axes of `zero`, as the initial carry of a scan must."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + jnp.asarray(zero, x.dtype), tree)


def aligned(tree: Tree) -> Tree:
    """The same values, all varying over the same mesh axes.

    Under shard_map a custom VJP may not return a device-varying cotangent for a replicated input, for example a
    temperature. Adding a zero that varies makes the input varying; the transpose of that addition then sums the
    cotangent over the devices, outside the custom VJP.
    """
    zero = varying_zero(tree)
    return jax.tree.map(lambda x: x + jnp.asarray(zero, x.dtype) if is_float(x) else x, tree)
