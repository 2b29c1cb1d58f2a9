"""Once every shape of batch has come, a run compiles nothing more, holds no old state and waits for no batch."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from jdistill.parallel import make_mesh, row_sharding, state_sharding
from jdistill.train.state import make_state
from jdistill.train.step import make_train_step
from jdistill.types import Batch
from tests.train.tiny_run import TERMS, adamw, run, tiny_loader

WARM = 15
"""Steps after which every shape has come."""


class Watched:
    """A loader that calls `see` whenever a batch is taken."""

    def __init__(self, loader: Any, see: Any):
        self._loader, self._see = loader, see

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def stream(self, *args: Any) -> Iterator[Batch]:
        for batch in self._loader.stream(*args):
            self._see(batch)
            yield batch


@pytest.fixture
def compilations() -> Iterator[list[str]]:
    """Whatever is traced, lowered or compiled."""
    found: list[str] = []

    def note(event: str, _: float, **details: Any) -> None:
        if event.startswith("/jax/core/compile"):
            found.append(f"{event} {details.get('fun_name')}")

    jax.monitoring.register_event_duration_secs_listener(note)
    yield found
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("fsdp", [1, 2])
def test_nothing_is_compiled_over_50_steps_of_mixed_lengths(
    tmp_path: Path, student: Any, compilations: list[str], fsdp: int
) -> None:
    lengths, compiled = [], []

    def see(batch: Batch) -> None:
        lengths.append(batch.documents.ids.shape[-1])
        compiled.append(len(compilations))

    loader = Watched(tiny_loader(shapes=2), see)
    run(
        tmp_path / "run", student, loader=loader, steps=WARM + 60, log_every=1, evaluate=None, fsdp=fsdp, save_every=100
    )
    steady = slice(WARM, WARM + 51)
    assert len(set(lengths[:WARM])) == len(set(lengths[steady])) == 2
    assert compilations  # of the first steps
    assert compilations[compiled[WARM] : compiled[WARM + 50]] == []


@pytest.mark.parametrize("fsdp", [1, 2])
def test_a_step_takes_the_memory_of_the_state_it_is_given(student: Any, fsdp: int) -> None:
    mesh = make_mesh(jax.devices()[:2], fsdp=fsdp)
    optimizer, groups = adamw(10)
    step = make_train_step(student[0], TERMS, optimizer, groups, mesh, seed=0, total_steps=10)
    state = make_state(student[1], TERMS, optimizer, groups)
    state = jax.device_put(state, state_sharding(state, mesh))
    new, _ = step(state, jax.device_put(tiny_loader().batch(0), row_sharding(mesh)))
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    same = jax.tree.map(lambda x, place: x.sharding.is_equivalent_to(place, x.ndim), new, state_sharding(new, mesh))
    assert all(jax.tree.leaves(same))


def test_two_batches_are_on_their_way_before_they_are_needed(
    tmp_path: Path, student: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a step begins, the batches of the next two have been sent to the devices."""
    sent, begun = [], []
    place = jax.make_array_from_process_local_data

    def note(sharding: Any, x: Any, *rest: Any) -> Any:
        sent.append(x.shape)
        return place(sharding, x, *rest)

    monkeypatch.setattr(jax, "make_array_from_process_local_data", note)
    from jdistill.train.programs import Programs

    call = Programs.__call__

    @functools.wraps(call)
    def step(self: Programs, state: Any, batch: Batch) -> Any:
        begun.append(len(sent) / len(jax.tree.leaves(batch)))
        return call(self, state, batch)

    monkeypatch.setattr(Programs, "__call__", step)
    run(tmp_path / "run", student, evaluate=None, steps=6)
    assert begun == [3, 4, 5, 6, 6, 6]
