"""The train step: a pure function, compiled once per batch shape."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from jdistill.config import UserError
from jdistill.losses import LossConfig
from jdistill.parallel import (
    accumulated,
    in_microbatches,
    make_device_objective,
    make_objective,
    replicated,
    row_sharding,
    state_sharding,
)
from jdistill.student import Student
from jdistill.train.groups import Groups, Params, join
from jdistill.train.state import TrainState
from jdistill.types import Batch, Metrics, PairEmbeddings, Projection, Tokens, Vectors

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

Draws = tuple[Array, Array, Array]
"""Progress in [0, 1], the student's key and the losses' key: all that a step depends on besides state and batch."""
Encode = Callable[[PyTree[Array], tuple[Tokens | None, Tokens], Array], dict[int, PairEmbeddings]]
"""Parameters, (query, document) tokens and one key per row -> vectors of each needed layer."""
GradientOf = Callable[[Params, Params, Batch, Draws], tuple[tuple[Array, dict[str, Array]], Params]]
"""Trained parameters, frozen parameters, batch, draws -> `((loss, {term: mean}), gradient)`. The gradient is with
respect to the trained parameters only, so no activations are stored for the frozen ones."""


def make_train_step(
    student: Student,
    terms: Mapping[str, LossConfig],
    optimizer: optax.GradientTransformation,
    groups: Groups,
    mesh: Mesh,
    *,
    seed: int,
    total_steps: int,
    microbatches: int = 1,
    ema: float | None = None,
) -> TrainStep:
    """Make the jitted `(state, batch) -> (state, metrics)`. It donates the input state, which must not be used again.

    Args:
      student: encodes tokens into vectors.
      terms: name -> loss, teachers filled in.
      optimizer: turns gradients of the trained parameters into updates.
      groups: which parameters are trained.
      mesh: devices over which the batch is sharded by rows and the state by `state_sharding`.
      seed: together with the step, determines dropout and the losses' random numbers.
      total_steps: length of the run; losses receive `step / total_steps` as progress.
      microbatches: parts in which the batch is encoded; the losses are computed for each part, too, if none of
        them compares rows with each other.
      ema: decay of the moving average of the student's parameters; None without one.
    """
    encode = partial(encode_columns, student, needed_layers(student, terms))
    # Without in-batch comparisons, gradients of the microbatches are accumulated in one pass. Otherwise the losses need
    # all vectors of the batch first, and the microbatches are encoded a second time for the gradient (GradCache).
    by_pieces = microbatches > 1 and not any(term.needs().batch for term in terms.values())
    gradient_fn = _of_microbatches if by_pieces else _of_batch
    gradient_of = gradient_fn(encode, terms, mesh, microbatches)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # From seed and step alone, so that a resumed run draws the same numbers.
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        progress = state.step.astype(jnp.float32) / total_steps
        trained, frozen = groups.split(state.params)
        (loss, parts), gradients = gradient_of(trained, frozen, batch, (progress, *keys))
        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        # Without the barrier XLA recomputes the whole update inside the norm's reduction, which it does not vectorise.
        moved, opt_state = jax.lax.optimization_barrier((optax.apply_updates(trained, updates), opt_state))
        change = optax.tree.norm(jax.tree.map(jnp.subtract, moved, trained))
        averaged = None if ema is None else _averaged(moved.get("student"), state.ema, state.step + 1, ema)
        new = TrainState(state.step + 1, join(moved, frozen), opt_state, averaged)
        # As it came in, so that its memory can be that of the old state.
        new = jax.lax.with_sharding_constraint(new, state_sharding(new, mesh))
        return new, Metrics(loss, parts, optax.tree.norm(gradients), change)

    whole, rows = replicated(mesh), row_sharding(mesh)
    # The state has its shardings already (None); the old one is donated, so that the new one takes its memory.
    return jax.jit(train_step, in_shardings=(None, rows), out_shardings=(None, whole), donate_argnums=0)


def _averaged(params: Any, average: Any, step: Array, decay: float) -> Any:
    """The moving average after so many steps, `sum_i decay^(step - i) p_i / sum_i decay^(step - i)` for i from 1 on.

    Parity: optax.ema with debias.
    """
    # average + share (params - average). In the first update the share is 1, so the initial parameters have no weight.
    share = (1.0 - decay) / (1.0 - decay ** step.astype(jnp.float32))
    return optax.incremental_update(params, average, share)


def _of_batch(encode: Encode, terms: Mapping[str, LossConfig], mesh: Mesh, microbatches: int) -> GradientOf:
    """The losses get all vectors of the batch at once."""
    objective = make_objective(terms, mesh)

    def loss_fn(trained: Params, frozen: Params, batch: Batch, draws: Draws) -> tuple[Array, dict[str, Array]]:
        params, (progress, student_key, term_key) = join(trained, frozen), draws
        texts, encoding = (batch.queries, batch.documents), encoding_params(params)
        by_layer = in_microbatches(encode, encoding, texts, student_key, count=microbatches, mesh=mesh)
        return objective(vectors_of(by_layer, params), batch, params["losses"], progress, term_key)

    # Differentiate outside the objective's shard_map: the gradient is that of the mean over the global batch.
    return jax.value_and_grad(loss_fn, has_aux=True)


def _of_microbatches(encode: Encode, terms: Mapping[str, LossConfig], mesh: Mesh, microbatches: int) -> GradientOf:
    """The losses get one microbatch of a device's rows at a time."""
    objective = make_device_objective(terms, mesh)

    def loss_fn(
        trained: Params, microbatch: Batch, row_keys: Array, shared: tuple[Params, Draws]
    ) -> tuple[Array, dict[str, Array]]:
        frozen, (progress, _, term_key) = shared
        params = join(trained, frozen)
        by_layer = encode(encoding_params(params), (microbatch.queries, microbatch.documents), row_keys)
        ids = (microbatch.query_ids, microbatch.document_ids)
        vectors = vectors_of(by_layer, params)
        learned = params["losses"]
        return objective(
            vectors, microbatch.targets, ids, microbatch.scores, microbatch.labels, learned, progress, term_key
        )

    def gradient_of(
        trained: Params, frozen: Params, batch: Batch, draws: Draws
    ) -> tuple[tuple[Array, dict[str, Array]], Params]:
        return accumulated(loss_fn, trained, batch, draws[1], (frozen, draws), count=microbatches, mesh=mesh)

    return gradient_of


def encoding_params(params: Params) -> PyTree[Array]:
    """The student's parameters without its projections."""
    return {name: values for name, values in params["student"].items() if name != "projection"}


def vectors_of(by_layer: dict[int, PairEmbeddings], params: Params) -> Vectors:
    """Encoder outputs per layer as the `Vectors` that the objective takes."""
    last = max(by_layer)
    earlier = {layer: columns for layer, columns in by_layer.items() if layer != last}
    maps = params["student"].get("projection", {})
    return Vectors(by_layer[last], earlier, {teacher: Projection(**values) for teacher, values in maps.items()})


def encode_columns(
    student: Student,
    layers: tuple[int, ...],
    params: PyTree[Array],
    texts: tuple[Tokens | None, Tokens],
    row_keys: Array,
) -> dict[int, PairEmbeddings]:
    """The student's vectors of queries and documents for each of `layers`, as if the encoder ended there.

    A text's dropout depends on the key of its row only. With packing or folding, where texts share encoder rows, all
    texts of a side use the first row's key, so their dropout depends on which rows are encoded together.
    """
    query_tokens, tokens = texts
    n, c, length = tokens.ids.shape
    # Of each row: a key for the query, whether or not there is one, then one for each document.
    text_keys = jax.vmap(lambda key: jax.random.split(key, 1 + c))(row_keys)
    query_keys, document_keys = text_keys[:, 0], text_keys[:, 1:].reshape(n * c)

    def vectors(tokens: Tokens, keys: Array) -> dict[int, Array]:
        key = keys if tokens.packed is None else keys[0]
        return student.encode_layers(params, tokens, layers, dropout_key=key)

    # [n, c, ...] -> [n c, ...]: the encoder has texts, not rows.
    ids, mask = tokens.ids.reshape(n * c, length), tokens.mask.reshape(n * c, length)
    hidden = None if tokens.hidden is None else tokens.hidden.reshape(n * c, length, -1)
    prompt = None if tokens.prompt is None else tokens.prompt.reshape(n * c)
    documents = vectors(Tokens(ids, mask, tokens.packed, hidden, prompt), document_keys)
    queries = None if query_tokens is None else vectors(query_tokens, query_keys)
    return {
        layer: PairEmbeddings(None if queries is None else queries[layer], documents[layer].reshape(n, c, -1))
        for layer in layers
    }


def needed_layers(student: Student, terms: Mapping[str, LossConfig]) -> tuple[int, ...]:
    """Layers whose vectors the terms use, always including the last.

    Raises:
      UserError: if a term uses an earlier layer that the student does not have.
    """
    depth = student.layers
    layers = {depth}
    for name, term in terms.items():
        wanted = term.needs().layers
        read = range(depth) if wanted == "every" else wanted
        if any(layer >= depth for layer in read):
            has = f"earlier layers 0 to {depth - 1}" if depth else "no earlier layers"
            raise UserError(f"losses.{name}: uses layer {max(read)}, but the student has {has}. Choose one of these.")
        layers |= {*read}
    return tuple(sorted(layers))
