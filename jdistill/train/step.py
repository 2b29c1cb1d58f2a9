"""One update of the student: pure, compiled once per shape of batch."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
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
from jdistill.train.groups import join
from jdistill.train.optimizer import AdamW
from jdistill.train.state import TrainState
from jdistill.types import Batch, Columns, Metrics, Projection, Tokens, Vectors

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]

Params = dict[str, PyTree[Array]]
"""`params` of a TrainState."""
Draws = tuple[Array, Array, Array]
"""Progress, key of the student, key of the losses: all that a step depends on besides state and batch."""
Encode = Callable[[PyTree[Array], tuple[Tokens | None, Tokens], Array], dict[int, Columns]]
"""Parameters, texts and a key for each row -> vectors of each layer that is read."""
GradientOf = Callable[[Params, Params, Batch, Draws], tuple[tuple[Array, dict[str, Array]], Params]]
"""`((loss, {term: mean}), gradient)`. The gradient is that of the first parameters, which are trained; the second are
frozen, and nothing is kept for a derivative with respect to them."""


def make_train_step(
    student: Student,
    terms: Mapping[str, LossConfig],
    optimizer: AdamW,
    mesh: Mesh,
    *,
    seed: int,
    total_steps: int,
    microbatches: int = 1,
) -> TrainStep:
    """Compile-once `(state, batch) -> (state, metrics)`; the given state's memory is reused and must not be read again.

    Args:
      student: turns tokens into vectors.
      terms: name -> loss, teachers filled in.
      optimizer: turns gradients into updates.
      mesh: rows of the batch lie over it, and the state as `state_sharding` says.
      seed: with the step, decides dropout and what losses draw.
      total_steps: length of the run; losses see their share of it as progress.
      microbatches: pieces in which the batch is encoded, and judged too where no loss looks at other rows.
    """
    encode = partial(encode_columns, student, needed_layers(student, terms))
    # Pieces whose rows need no other row are done with after one pass; the others wait for all vectors (GradCache).
    by_pieces = microbatches > 1 and not any(term.needs().batch for term in terms.values())
    gradient_fn = _of_pieces if by_pieces else _of_batch
    gradient_of = gradient_fn(encode, terms, mesh, microbatches)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        progress = state.step.astype(jnp.float32) / total_steps
        trained, frozen = optimizer.groups.split(state.params)
        (loss, parts), gradients = gradient_of(trained, frozen, batch, (progress, *keys))
        trained, opt_state, norms = optimizer.update(gradients, state.opt_state, trained, state.step)
        new = TrainState(state.step + 1, join(trained, frozen), opt_state)
        # As it came in, so that its memory can be that of the old state.
        new = jax.lax.with_sharding_constraint(new, state_sharding(new, mesh))
        return new, Metrics(loss, parts, norms.gradient, norms.update)

    whole, rows = replicated(mesh), row_sharding(mesh)
    return jax.jit(train_step, in_shardings=(None, rows), out_shardings=(None, whole), donate_argnums=0)


def _of_batch(encode: Encode, terms: Mapping[str, LossConfig], mesh: Mesh, microbatches: int) -> GradientOf:
    """The losses see all vectors of the batch at once."""
    objective = make_objective(terms, mesh)

    def loss_fn(trained: Params, frozen: Params, batch: Batch, draws: Draws) -> tuple[Array, dict[str, Array]]:
        params, (progress, student_key, term_key) = join(trained, frozen), draws
        texts, encoding = (batch.queries, batch.documents), encoding_params(params)
        hidden = in_microbatches(encode, encoding, texts, student_key, count=microbatches, mesh=mesh)
        return objective(vectors_of(hidden, params), batch, params["losses"], progress, term_key)

    # Outside the objective's shard_map, so that the gradient is that of the mean over the whole batch.
    return jax.value_and_grad(loss_fn, has_aux=True)


def _of_pieces(encode: Encode, terms: Mapping[str, LossConfig], mesh: Mesh, microbatches: int) -> GradientOf:
    """The losses see one piece of a device's rows at a time."""
    objective = make_device_objective(terms, mesh)

    def loss_fn(
        trained: Params, piece: Batch, row_keys: Array, shared: tuple[Params, Draws]
    ) -> tuple[Array, dict[str, Array]]:
        frozen, (progress, _, term_key) = shared
        params = join(trained, frozen)
        hidden = encode(encoding_params(params), (piece.queries, piece.documents), row_keys)
        ids = (piece.query_ids, piece.document_ids)
        vectors = vectors_of(hidden, params)
        learned = params["losses"]
        return objective(vectors, piece.targets, ids, piece.scores, piece.labels, learned, progress, term_key)

    def gradient_of(
        trained: Params, frozen: Params, batch: Batch, draws: Draws
    ) -> tuple[tuple[Array, dict[str, Array]], Params]:
        return accumulated(loss_fn, trained, batch, draws[1], (frozen, draws), count=microbatches, mesh=mesh)

    return gradient_of


def encoding_params(params: Params) -> PyTree[Array]:
    """What turns tokens into vectors: all of the student but its projections."""
    return {name: values for name, values in params["student"].items() if name != "projection"}


def vectors_of(hidden: dict[int, Columns], params: Params) -> Vectors:
    """What an encoding gave, as the objective wants it."""
    earlier, last = {layer: columns for layer, columns in hidden.items() if layer != max(hidden)}, hidden[max(hidden)]
    maps = params["student"].get("projection", {})
    return Vectors(last, earlier, {teacher: Projection(**values) for teacher, values in maps.items()})


def encode_columns(
    student: Student,
    layers: tuple[int, ...],
    params: PyTree[Array],
    texts: tuple[Tokens | None, Tokens],
    row_keys: Array,
) -> dict[int, Columns]:
    """The student's vectors of queries and documents, if it ended after each of `layers`.

    What a text loses to dropout follows from its row's key. Texts that share rows of the encoder cannot each have their
    own: all texts of a side share the key of the first row, so theirs depends on which rows are encoded at once.
    """
    query_tokens, tokens = texts
    n, c, length = tokens.ids.shape
    text_keys = jax.vmap(lambda key: jax.random.split(key, 1 + c))(row_keys)
    query_keys, document_keys = text_keys[:, 0], text_keys[:, 1:].reshape(n * c)

    def vectors(tokens: Tokens, keys: Array) -> dict[int, Array]:
        key = keys if tokens.packed is None else keys[0]
        return student.encode_layers(params, tokens, layers, dropout_key=key)

    ids, mask = tokens.ids.reshape(n * c, length), tokens.mask.reshape(n * c, length)
    hidden = None if tokens.hidden is None else tokens.hidden.reshape(n * c, length, -1)
    prompt = None if tokens.prompt is None else tokens.prompt.reshape(n * c)
    documents = vectors(Tokens(ids, mask, tokens.packed, hidden, prompt), document_keys)
    queries = None if query_tokens is None else vectors(query_tokens, query_keys)
    return {
        layer: Columns(None if queries is None else queries[layer], documents[layer].reshape(n, c, -1))
        for layer in layers
    }


def needed_layers(student: Student, terms: Mapping[str, LossConfig]) -> tuple[int, ...]:
    """Layers whose vectors the terms read, the last one included.

    Raises:
      UserError: if a term reads an earlier layer that the student does not have.
    """
    depth = student.layers
    layers = {depth}
    for name, term in terms.items():
        wanted = term.needs().layers
        read = range(depth) if wanted == "every" else wanted
        if any(layer >= depth for layer in read):
            has = f"earlier layers 0 to {depth - 1}" if depth else "no earlier layers"
            raise UserError(f"losses.{name}: reads layer {max(read)}, but the student has {has}. Name one it has.")
        layers |= {*read}
    return tuple(sorted(layers))


def learning_rate(optimizer: AdamW, step: int) -> float:
    """The learning rate of the update that leads to `step`."""
    return float(optimizer.schedule(jnp.int32(step - 1)))
