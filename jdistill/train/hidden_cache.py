"""`student.backbone: cached`: the encoder's hidden states of all training texts, computed once before training."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from jdistill.losses import LossConfig
from jdistill.model import static_length, static_rows
from jdistill.parallel import in_microbatches, make_mesh, replicated
from jdistill.progress import Progress
from jdistill.store import HiddenTable, HiddenWriter, TokenTable
from jdistill.student import Student
from jdistill.train.config import TrainConfig
from jdistill.train.groups import Groups, frozen_paths
from jdistill.train.optimizer import make_optimizer
from jdistill.train.state import make_state
from jdistill.types import Tokens

TOKENS = 8192
"""Approximate number of tokens encoded at once per device."""

BATCH = 32
"""Batch size for which `static_rows` bounds the memory of long texts, as in `Model.encode`."""


def check_something_learns(
    config: TrainConfig, student: Student, params: PyTree[Array], terms: Mapping[str, LossConfig]
) -> None:
    """Refuse a run without trained parameters before spending hours on its hidden states.

    Raises:
      UserError: as `make_state` does.
    """
    groups = Groups(config.optimizer.groups, config.optimizer.weight_decay, frozen_paths(student))
    optimizer = make_optimizer(config.optimizer, config.schedule, 1, groups)
    # Shapes suffice: `make_state` checks the groups while it is traced, and nothing is computed.
    jax.eval_shape(lambda params: make_state(params, terms, optimizer, groups), params)


def hidden_table(
    store_path: str | Path, student: Student, params: PyTree[Array], tokens: TokenTable, *, title: str
) -> HiddenTable:
    """The encoder's last hidden states for all texts of a token cache, read from disk or computed now.

    Runs on all devices of this process, with texts sorted by length for few compilations and little padding. Shards
    written by an interrupted process are kept.

    Args:
      store_path: folder of the store.
      student: its encoder is used.
      params: the student's parameters, of which only `params["encoder"]` is used.
      tokens: the texts' tokens.
      title: label of the progress bar.

    Raises:
      UserError: if the disk is too small, or a hidden state is not finite.
    """
    encoder: dict[str, Any] = {"encoder": params["encoder"]}
    # Width and dtype of the hidden states, without encoding anything.
    form = jax.eval_shape(student.hidden_states, encoder, _form())
    writer = HiddenWriter(
        store_path,
        tokens,
        encoder=fingerprint(student, encoder),
        width=form.shape[-1],
        dtype=jnp.dtype(form.dtype).name,
    )
    if writer.complete:
        return writer.finish()
    writer.begin()
    # Not all devices of the run: process 0 computes alone, and the others read its files.
    mesh = make_mesh(jax.local_devices())
    encoder = jax.device_put(encoder, replicated(mesh))
    missing = writer.missing()
    done = writer.text_count - sum(len(writer.texts(shard)) for shard in missing)
    with Progress(title, writer.text_count, done=done) as progress:
        for shard in missing:
            ids = writer.texts(shard)
            # A shard has the tokens of its texts one after another, without padding; text i begins at starts[i].
            hidden = np.empty((int(tokens.lengths[ids].sum()), writer.width), form.dtype)
            starts = np.cumsum(tokens.lengths[ids]) - tokens.lengths[ids]
            for texts, padded in _encoded(student, encoder, tokens, ids, mesh):
                for text, values in zip(texts.tolist(), padded, strict=False):
                    length = tokens.lengths[ids[text]]
                    hidden[starts[text] : starts[text] + length] = values[:length]
                progress.advance(len(texts))
            writer.write(shard, hidden)
    return writer.finish()


def fingerprint(student: Student, params: Mapping[str, Any]) -> str:
    """sha256 of everything that determines hidden states besides tokens: architecture, weights and dtype."""
    config = student.config
    settings = {"encoder": config.encoder.model_dump(mode="json"), "dtype": config.dtype}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path, x in jax.tree.leaves_with_path(params["encoder"]):
        values = np.asarray(x)
        digest.update(f"{jax.tree_util.keystr(path)} {values.shape} {values.dtype.str}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def _encoded(
    student: Student, params: PyTree[Array], tokens: TokenTable, ids: Int[np.ndarray, " t"], mesh: Mesh
) -> Iterator[tuple[Int[np.ndarray, " k"], Float[np.ndarray, "r l d"]]]:
    """Yield batches of `(positions in ids, padded hidden states)`; surplus rows of the latter are fillers."""
    # Longest first, so a batch's first text sets its padded length.
    order = np.argsort(-tokens.lengths[ids], kind="stable")
    # The power of two from which on all texts fit into one batch.
    most = 1 << max(len(ids) - 1, 0).bit_length()
    waiting: tuple[np.ndarray, Array] | None = None
    start = 0
    while start < len(order):
        length = static_length(int(tokens.lengths[ids[order[start]]]), fine=True)
        # A power of two that depends on the length only, so that each length compiles one program.
        each = min(1 << (max(TOKENS // length, 1).bit_length() - 1), -(-most // mesh.size))
        each = min(each, static_rows(length, BATCH, attends=student.layers > 0))
        rows = each * mesh.size
        texts = order[start : start + rows]
        start += rows
        # A last, smaller batch is filled with copies, so that it needs no program of its own.
        filled = np.concatenate([texts, np.repeat(texts[:1], rows - len(texts))])
        result = _hidden(student, mesh, params, Tokens(*map(jnp.asarray, tokens.pad(ids[filled], length))))
        if waiting is not None:  # the devices work on `result` meanwhile
            yield waiting[0], np.asarray(waiting[1])
        waiting = (texts, result)
    if waiting is not None:
        yield waiting[0], np.asarray(waiting[1])


@partial(jax.jit, static_argnums=(0, 1))
def _hidden(student: Student, mesh: Mesh, params: PyTree[Array], tokens: Tokens) -> Float[Array, "n l d"]:
    def encode(params: PyTree[Array], tokens: Tokens, _: Array) -> Float[Array, "n l d"]:
        return student.hidden_states(params, tokens)

    return in_microbatches(encode, params, tokens, jax.random.key(0), count=1, mesh=mesh)


def _form() -> Any:
    return Tokens(*(jax.ShapeDtypeStruct((1, 8), dtype) for dtype in (jnp.int32, jnp.bool_)))  # pyright: ignore[reportArgumentType]
