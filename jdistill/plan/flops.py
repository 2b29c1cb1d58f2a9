"""Model FLOPs of a step by formula, including what XLA's own count leaves out: loop iterations, Pallas kernels."""

from typing import Any

import jax

from jdistill.plan.job import Job


def model_flops(job: Job, rows: int) -> float:
    """Model FLOPs of training on `rows` rows, by formula, independent of the implementation.

        6 P T + 12 layers d l T   for T tokens in texts of l, P elements of the encoder's matrices, width d

    Padding counts as tokens, also in packed or folded rows, where all texts are assumed to have the mean length.

    The factor 6 is a multiplication and an addition, once forward and twice backward; the second summand is attention.
    Frozen matrices need one multiplication in the backward pass, or none if nothing in the encoder is trained. LoRA's
    matrices count like others. An encoder with cached hidden states does not run. The matrices of head and projections
    multiply each text once. Look-ups, normalization, activation, softmax, poolings, the loss and re-encoding
    (microbatches, `student.remat`) are not counted.
    Source: Kaplan et al. 2020, arXiv:2001.08361, section 2.1, with the attention of both directions.
    """
    encoder = job.student.config.encoder
    trained = job.groups.split({"student": job.params})[0].get("student", {})
    matrices, learned = (_matrices(params.get("encoder", {})) for params in (job.params, trained))
    low_rank = sum(x.size for x in jax.tree.leaves(job.params.get("lora", {})))
    backward = 1 if "encoder" in trained or "lora" in trained else 0
    after_pooling = sum(_matrices(job.params.get(part, {})) for part in ("head", "projection"))
    total = 0.0
    for texts, shared in () if job.student.config.backbone == "cached" else job.rows.sides:
        tokens = rows * shared.length * shared.per_row
        length = tokens / (rows * texts)
        # All matrices: the product, and backward its gradient by the input. Those trained: also the gradient by the
        # matrix.
        total += (2.0 * (1 + backward) * matrices + 2.0 * learned + 6.0 * low_rank) * tokens
        # Scores and weighted values: two products of d multiplications for every pair of tokens, twice that backward.
        total += 4.0 * (1 + 2 * backward) * encoder.depth * encoder.width * length * tokens
    return total + 6.0 * after_pooling * rows * job.rows.texts


def _matrices(params: Any) -> int:
    """Elements of all matrices, without tables that are looked up."""
    leaves = jax.tree.leaves_with_path(params)
    return sum(x.size for path, x in leaves if str(getattr(path[-1], "key", path[-1])) == "kernel")
