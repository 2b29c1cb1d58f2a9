"""Counting in traced programs: matrix products, loops, devices, values alive at once."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from jdistill.parallel import make_mesh
from jdistill.parallel.mesh import AXES
from jdistill.plan import RowForm, Shared, SharedRows
from jdistill.plan.collectives import Collective
from jdistill.plan.job import batch_bytes, model_flops, trace
from jdistill.plan.traced import find_work, peak_bytes
from jdistill.plan.transfers import traced_collectives
from tests.plan.tiny_job import tiny_job

MESH = AbstractMesh((4, 2), AXES, axis_types=(AxisType.Auto, AxisType.Auto))
"""Eight devices that nobody has."""


@pytest.fixture
def mesh():
    return make_mesh(jax.devices())


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def test_matrix_products_count_twice_their_elements_and_loops_their_turns():
    once = jax.make_jaxpr(lambda x, y: x @ y)(shape(3, 5), shape(5, 7))
    assert find_work(once, "tpu").flops == 2 * 3 * 5 * 7
    assert find_work(once, "tpu").bytes == 4 * (15 + 35 + 21)
    loop = jax.make_jaxpr(lambda x: lax.scan(lambda c, _: (c @ c, None), x, length=6)[0])(shape(4, 4))
    assert find_work(loop, "tpu").flops == 6 * 2 * 4**3
    endless = jax.make_jaxpr(lambda x: lax.while_loop(lambda c: c.sum() < 1, lambda c: c @ c, x))(shape(4, 4))
    assert find_work(endless, "tpu") == find_work(endless, "tpu")._replace(flops=2 * 4**3, unknown_loops=1)


def test_what_a_platform_does_its_own_way_counts_for_it_alone():
    def two_ways(x):
        return lax.platform_dependent(x, default=lambda x: (x @ x) @ x, tpu=lambda x: x @ x)

    program = jax.make_jaxpr(two_ways)(shape(4, 4))
    assert [find_work(program, platform).flops for platform in ("tpu", "cuda", "cpu")] == [128, 256, 256]
    assert [peak_bytes(program, platform) for platform in ("tpu", "cuda")] == [4 + 64, 4 + 2 * 64]


def test_what_each_device_does_counts_for_all():
    def local(x):
        whole = lax.all_gather(x, AXES, tiled=True)
        return lax.psum((x @ whole.T).sum(), AXES)

    mapped = jax.shard_map(local, mesh=MESH, in_specs=PartitionSpec(AXES), out_specs=PartitionSpec())
    program = jax.make_jaxpr(mapped)(shape(16, 3))
    assert find_work(program, "tpu").flops == 8 * 2 * 2 * 16 * 3
    assert set(traced_collectives(program, "tpu")) == {
        Collective("all-gather", 8, 1, 16 * 3 * 4, 0),
        Collective("all-reduce", 8, 1, 4, 0),
    }


def test_values_are_alive_until_their_last_use():
    def chain(x):
        a = x + 1.0  # alive: a
        b = a * 2.0  # a, b
        return (b - 1.0).sum()  # b and the difference

    assert peak_bytes(jax.make_jaxpr(chain)(shape(100)), "tpu") == 2 * 400

    def keeps(x):
        a = x + 1.0
        b = a * 2.0
        return (b - 1.0) + a  # a, b and the difference

    assert peak_bytes(jax.make_jaxpr(keeps)(shape(100)), "tpu") == 3 * 400


def test_a_value_that_is_split_counts_as_one_devices_part():
    mapped = jax.shard_map(jnp.sin, mesh=MESH, in_specs=PartitionSpec(AXES), out_specs=PartitionSpec(AXES))
    assert peak_bytes(jax.make_jaxpr(lambda x: mapped(x))(shape(80)), "tpu") == 40


def test_the_trace_agrees_with_the_formula(mesh):
    job = tiny_job(terms={"align": tiny_job().terms["align"]})
    work = find_work(trace(job, mesh, 64).jaxpr, "tpu")
    # All that the formula leaves out of matrix products: nothing, but for the dot products of vectors.
    assert work.flops == pytest.approx(model_flops(job, 64), rel=0.01)
    assert work.unknown_loops == 0


@pytest.mark.parametrize(
    ("student", "tolerance"),
    [
        ({"backbone": "frozen"}, 0.01),
        # Of the only layer three matrices need no derivative of their input, and two have one of the merged matrix.
        ({"lora": {"rank": 4}}, 0.1),
    ],
    ids=str,
)
def test_what_is_frozen_is_not_differentiated(mesh, student, tolerance):
    terms = {"align": tiny_job().terms["align"]}
    job, trained = tiny_job(student, terms=terms), tiny_job(terms=terms)
    work = find_work(trace(job, mesh, 64).jaxpr, "tpu")
    assert work.flops == pytest.approx(model_flops(job, 64), rel=tolerance)
    assert model_flops(job, 64) < 0.72 * model_flops(trained, 64)


def test_an_encoder_whose_hidden_states_are_cached_does_not_run(mesh):
    terms = {"align": tiny_job().terms["align"]}
    cached, frozen = (tiny_job({"backbone": backbone}, terms=terms) for backbone in ("cached", "frozen"))
    flops = find_work(trace(cached, mesh, 64).jaxpr, "tpu").flops
    # The projection alone is multiplied, but not for a derivative of its input, which nothing needs.
    assert flops == pytest.approx(2 / 3 * model_flops(cached, 64), rel=0.02)
    assert model_flops(cached, 64) < 0.05 * model_flops(frozen, 64)
    assert batch_bytes(cached, 64, 8) - batch_bytes(frozen, 64, 8) == 64 * (16 + 32) * 256 * 2


def test_microbatches_encode_once_more_and_keep_less(mesh):
    whole, pieces = (trace(tiny_job(microbatches=n), mesh, 2048).jaxpr for n in (1, 4))
    assert 1.2 < find_work(pieces, "tpu").flops / find_work(whole, "tpu").flops < 4 / 3
    assert peak_bytes(pieces, "tpu") < 0.5 * peak_bytes(whole, "tpu")


def test_gradients_travel_once(mesh):
    job = tiny_job()
    parameters = sum(x.size * 4 for x in jax.tree.leaves(job.params))
    found = {c.kind: c for c in traced_collectives(trace(job, mesh, 64).jaxpr, "tpu")}
    assert found["all-reduce"].bytes == pytest.approx(parameters, rel=0.001)
    assert found["all-reduce"].group == 8


def test_a_batch_has_the_bytes_of_its_arrays():
    tokens, vectors, numbers = 64 * (16 + 32) * 5, 64 * 2 * 384 * 4, 64 * 2 * 4
    assert batch_bytes(tiny_job(), 64, 8) == tokens + vectors + numbers
    # 8 rows a piece: of queries 2 rows are full, and 4 of documents are, so that no piece has a part of one.
    shared = RowForm(16, 32, 1, 0, Shared(SharedRows(64, 0.25), SharedRows(64, 0.45), 1))
    assert batch_bytes(tiny_job(rows=shared), 64, 8) == tokens + vectors + numbers + 8 * (2 + 4) * 64 * 4


def test_work_is_that_of_the_rows_that_texts_share(mesh):
    terms = {"align": tiny_job().terms["align"]}
    packed = RowForm(16, 32, 1, 0, Shared(SharedRows(64, 0.125), SharedRows(64, 0.25), 1))
    alone, sharing = (tiny_job(terms=terms, rows=rows) for rows in (RowForm(16, 32, 1, 0), packed))
    assert model_flops(sharing, 64) == pytest.approx(0.5 * model_flops(alone, 64), rel=0.01)
    # XLA multiplies whole rows where texts attend only to themselves, and takes texts out of rows by their places.
    assert find_work(trace(sharing, mesh, 64).jaxpr, "cuda").flops == pytest.approx(model_flops(sharing, 64), rel=0.1)
