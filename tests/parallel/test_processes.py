"""Who belongs together, how it is found out, and what the others learn when one of them fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jdistill.config import UserError
from jdistill.parallel import as_process_0, check_shared, host_share, joined, leave, local_copy, make_mesh, row_sharding
from jdistill.parallel.processes import HEARTBEAT_SECONDS, Address, _in_cluster, _is_loss, address
from tests.several_processes import BOUND, Together, free_port


def test_three_options_are_one_address() -> None:
    assert address("10.0.0.2:8476", 4, 3) == Address("10.0.0.2:8476", 4, 3)
    assert address(None, None, None) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "--coordinator: missing"),
        (("host:1", None, 0), "--processes: missing"),
        (("host", 2, 0), "expected HOST:PORT"),
        (("host:port", 2, 0), "expected HOST:PORT"),
        (("host:65536", 2, 0), "expected HOST:PORT"),
        (("host:1", 2, 2), "expected 0 to 1"),
        (("host:1", 2, -1), "expected 0 to 1"),
    ],
)
def test_mistakes_in_the_options_are_reported(given: tuple[str | None, int | None, int | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        address(*given)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, False),  # in the batch script, before srun
        ({"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
    ],
)
def test_a_cluster_is_known_by_its_variables(
    environment: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "JOB_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _in_cluster() == several


def test_alone_nothing_is_started_and_nothing_waits() -> None:
    began = time.monotonic()
    with joined(None):
        assert not jax.distributed.is_initialized()
    leave(3)
    assert time.monotonic() - began < 1
    assert as_process_0({"a": 0.1, "b": float("nan")}) == pytest.approx({"a": 0.1, "b": float("nan")}, nan_ok=True)


def test_a_local_copy_is_whole_and_on_one_device() -> None:
    mesh = make_mesh()
    split = jax.device_put(np.arange(16.0, dtype=np.float32), row_sharding(mesh))
    copy = local_copy({"split": split})["split"]
    assert len(split.sharding.device_set) == 8
    assert len(copy.sharding.device_set) == 1
    np.testing.assert_array_equal(np.asarray(copy), np.arange(16.0))


@pytest.mark.parametrize(("owners", "share"), [([0] * 4, (0, 1)), ([0, 0, 1, 1], (0, 2)), ([2, 2, 0, 0, 1, 1], (1, 3))])
def test_rows_go_to_where_the_devices_of_a_process_stand(owners: list[int], share: tuple[int, int]) -> None:
    assert host_share(mesh_of(owners)) == share


@pytest.mark.parametrize("owners", [[0, 1, 0, 1], [0, 0, 0, 1]])
def test_devices_of_a_process_that_are_not_adjacent_are_refused(owners: list[int]) -> None:
    with pytest.raises(UserError, match="equal, contiguous parts"):
        host_share(mesh_of(owners))


def mesh_of(owners: list[int]) -> jax.sharding.Mesh:
    """All that is asked of a mesh here."""
    devices = np.array([SimpleNamespace(process_index=owner) for owner in owners])
    mesh = object.__new__(jax.sharding.Mesh)
    object.__setattr__(mesh, "devices", devices)
    return mesh


def test_a_folder_that_is_not_shared_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jdistill.parallel.synchronize.SEEN_SECONDS", 0)
    with pytest.raises(UserError, match="on a disk that all hosts share"):
        check_shared(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").touch()
    check_shared(tmp_path / "config.yaml")


def test_only_the_loss_of_a_partner_is_taken_for_one() -> None:
    lost = jax.errors.JaxRuntimeError(
        "UNKNOWN: Gloo all-reduce failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:928"
    )
    in_a_barrier = TimeoutError("Timeout waiting at barrier 'save'.")
    in_a_barrier.__cause__ = jax.errors.JaxRuntimeError("UNAVAILABLE: The following tasks are unhealthy: 2")
    assert _is_loss(lost)
    assert _is_loss(in_a_barrier)
    assert not _is_loss(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17 bytes"))
    assert _is_loss(ValueError("UNKNOWN: Gloo all-reduce failed: [pair.cc:538] Read error: Connection reset by peer"))
    assert not _is_loss(ValueError("a service that is unavailable"))
    assert not _is_loss(TimeoutError("an evaluation's own, on a service that is unavailable"))


FAILS = """
import jax
from jdistill import verbs
from jdistill.config import UserError
from jdistill.parallel.synchronize import wait_for_all
def train(recipe):
    print("C++ and Python print", flush=True)
    wait_for_all()
    if jax.process_index() == 0:
        raise {error}
    wait_for_all()
verbs.train, verbs.load_recipe = train, lambda *_: None
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ('UserError("x: is wrong")', 2),
        ('ZeroDivisionError("x is wrong")', 1),
        ('TimeoutError("x is wrong") from jax.errors.JaxRuntimeError("UNAVAILABLE: a task is unhealthy")', 75),
    ],
)
def test_a_process_that_fails_tells_why_and_the_others_end(error: str, code: int) -> None:
    """The others wait for it, and would for ever."""
    began = time.monotonic()
    with Together(["train", "x.yaml"], count=2, before=FAILS.format(error=error)) as two:
        first, other = two.codes()
        assert first == code, two.message()
        assert other in (75, -signal.SIGABRT), two.message()
        assert "is wrong" in "".join(two.errors[0])
        assert ("process 0 of 2: x: is wrong" in "".join(two.errors[0])) == (code == 2)
        assert_reported("".join(two.errors[1]), other, process=1)
        assert two.printed() == 2 * ["C++ and Python print\n"]
    assert time.monotonic() - began < 60


def assert_reported(message: str, code: int, *, process: int) -> None:
    """The loss of another process, by jdistill or by JAX's runtime, whichever noticed it."""
    if code == 75:
        assert f"error: process {process} of 2: stopped, because another process died" in message
    else:
        assert "most likely indicates that another task died" in message


SILENT = """
import sys
from jdistill import verbs
from jdistill.parallel.synchronize import wait_for_all
def train(recipe):
    wait_for_all()
    print("together", file=sys.stderr, flush=True)
    while True:
        wait_for_all()
verbs.train, verbs.load_recipe = train, lambda *_: None
"""


@pytest.mark.slow
def test_a_process_that_is_silent_is_noticed_within_the_bound() -> None:
    """Stopped, it keeps its connections, so that no network tells the other of its end."""
    with Together(["train", "x.yaml"], count=2, before=SILENT) as two:
        two.wait_for(lambda: all("together\n" in lines for lines in two.errors))
        began = time.monotonic()
        two.processes[1].send_signal(signal.SIGSTOP)
        code = two.processes[0].wait(BOUND)
        assert time.monotonic() - began < HEARTBEAT_SECONDS + 15
        two.processes[1].kill()
        two.codes()
        assert code in (75, -signal.SIGABRT), two.message()
        assert_reported("".join(two.errors[0]), code, process=0)


@pytest.mark.slow
def test_a_slurm_step_finds_its_processes() -> None:
    """What SLURM tells the tasks of a step is all that they learn here."""
    program = (
        "import jax\n"
        "from jdistill.parallel import as_process_0, joined\n"
        "with joined(None):\n"
        "    seen = as_process_0({'process': float(jax.process_index() + 10)})\n"
        "    print(jax.process_index(), jax.process_count(), jax.device_count(), seen['process'])\n"
    )
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "JAX_COORDINATOR_PORT": str(free_port()),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
    }
    tasks = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, **step, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    printed = [task.communicate(timeout=BOUND)[0].splitlines() for task in tasks]
    ours = [[line for line in lines if not line.startswith("[Gloo]")] for lines in printed]
    assert ours == [["0 2 6 10.0"], ["1 2 6 10.0"]]


def test_nobody_at_the_address_is_the_users_mistake() -> None:
    program = (
        "import jax\n"
        "from jdistill.parallel import processes\n"
        "processes.CONNECT_SECONDS = 1\n"
        "with processes.joined(processes.Address('127.0.0.1:1', 2, 1)):\n"
        "    print('never')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, env={**os.environ}
    )
    assert ended.returncode != 0
    assert "never" not in ended.stdout
    assert "--coordinator 127.0.0.1:1: process 1 cannot reach process 0 there" in ended.stderr
