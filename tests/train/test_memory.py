"""What a step needs, as the compiler tells: no weights, no data, nothing runs."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jdistill.losses import EmbedCosine, InfoNCE
from jdistill.parallel import make_mesh, state_sharding
from jdistill.student import Student
from jdistill.student.config import Architecture, Prompts
from jdistill.student.encoders import BertConfig
from jdistill.student.head import Normalize
from jdistill.student.student import encoder_shapes
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step
from jdistill.types import Batch, PairEmbeddings, Tokens
from tests.train.tiny_run import adamw

LENGTH, WIDTH, FLOAT = 64, 384, 4
TERMS = {"align": EmbedCosine(teacher="big"), "contrast": InfoNCE()}


def compiled(
    layers: int, rows: int, *, microbatches: int = 1, devices: int = 1, fsdp: int = 1, frozen: Sequence[str] = ()
) -> tuple[Any, int]:
    """A step of a MiniLM with so many layers, and the bytes of its parameters."""
    architecture = Architecture(
        encoder=BertConfig(num_hidden_layers=layers),
        pooling=["mean"],
        head=[Normalize()],
        max_length=LENGTH,
        prompts=Prompts(),
        projections={},
        dropout=0.0,
        dtype="float32",
    )
    no_tokenizer: Any = None  # there are no texts
    student = Student(architecture, no_tokenizer)
    optimizer, groups = adamw(10, frozen=frozen)
    mesh, params = make_mesh(jax.devices()[:devices], fsdp=fsdp), {"encoder": encoder_shapes(architecture.encoder)}
    state = jax.eval_shape(lambda params: make_state(params, TERMS, optimizer, groups), params)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, state_sharding(state, mesh)
    )
    step: Any = make_train_step(
        student, TERMS, optimizer, groups, mesh, seed=0, total_steps=10, microbatches=microbatches
    )
    program = step.lower(state, batch(rows)).compile()
    return program.memory_analysis(), FLOAT * sum(x.size for x in jax.tree.leaves(params))


def batch(rows: int) -> Batch:
    def form(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((rows, *shape), dtype)

    def tokens(*shape: int) -> Tokens:
        return Tokens(form(*shape, LENGTH, dtype=jnp.int32), form(*shape, LENGTH, dtype=jnp.bool_))

    targets = {"big": PairEmbeddings(form(WIDTH), form(1, WIDTH))}
    return Batch(tokens(), tokens(1), targets, None, form(dtype=jnp.int32), form(1, dtype=jnp.int32))


@pytest.mark.slow
def test_a_batch_of_65536_fits_where_one_of_512_fits() -> None:
    """In 128 pieces of 512 rows. What comes on top are the vectors of the whole batch, their gradient, and one gradient
    of the parameters to which those of the pieces are added: 3 % of the activations of a piece."""
    small, _ = compiled(6, 512)
    large, gradient = compiled(6, 65536, microbatches=128)
    vectors = 2 * 65536 * WIDTH * FLOAT
    extra = large.temp_size_in_bytes - small.temp_size_in_bytes
    assert extra <= 2 * vectors + gradient <= 0.04 * small.temp_size_in_bytes


def test_each_device_holds_its_part_of_the_state_and_updates_it_in_place() -> None:
    whole, parameters = compiled(1, 64, devices=8)
    split, _ = compiled(1, 64, devices=8, fsdp=8)
    assert whole.argument_size_in_bytes >= 3 * parameters  # with two moments each
    assert split.argument_size_in_bytes <= 1.01 * whole.argument_size_in_bytes / 8
    assert split.temp_size_in_bytes < whole.temp_size_in_bytes
    for memory in (whole, split):
        assert memory.alias_size_in_bytes >= 0.99 * memory.output_size_in_bytes
