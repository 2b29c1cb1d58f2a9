"""Compiler flags: every name exists, what the user set stays, and only those of the platform at hand are added."""

import os
import subprocess
import sys

import pytest

from jdistill.parallel.xla_flags import FLAGS, platform_at_hand, set_flags
from tests.plan.libtpu import needs_libtpu


def started(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter: flags are read once."""
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)


def test_xla_knows_every_flag_of_cuda():
    environ: dict[str, str] = {}
    set_flags("cuda", environ)
    program = "import jax; jax.devices()"
    assert started(program, **environ).returncode == 0
    unknown = started(program, XLA_FLAGS=environ["XLA_FLAGS"] + " --xla_gpu_no_such_flag=true")
    assert unknown.returncode != 0
    assert "xla_gpu_no_such_flag" in unknown.stderr


@needs_libtpu
def test_libtpu_knows_every_flag_of_tpus():
    program = "from jdistill.plan import topology_devices; import os\n"
    program += "topology_devices('v5e:2x2'); print(os.environ['LIBTPU_INIT_ARGS'])"
    known = started(program, LIBTPU_INIT_ARGS="")
    assert known.returncode == 0, known.stderr
    assert all(f"--{name}={value}" in known.stdout for name, value in FLAGS["tpu"].values.items())
    unknown = started(program, LIBTPU_INIT_ARGS="--xla_tpu_no_such_flag=true")
    assert unknown.returncode != 0
    assert "xla_tpu_no_such_flag" in unknown.stderr


def test_what_the_user_set_stays():
    environ = {"XLA_FLAGS": "--xla_dump_to=/x --xla_gpu_enable_latency_hiding_scheduler=false"}
    added = set_flags("cuda", environ)
    assert environ["XLA_FLAGS"].startswith("--xla_dump_to=/x --xla_gpu_enable_latency_hiding_scheduler=false --xla_gpu")
    assert "latency_hiding" not in added
    assert set_flags("cuda", environ) == ""  # a second time adds nothing
    assert environ.keys() == {"XLA_FLAGS"}


@pytest.mark.parametrize(
    ("platforms", "files", "expected"),
    [
        ("", (), "cpu"),
        ("", ("nvidia0", "nvidiactl"), "cuda"),
        ("", ("nvidiactl",), "cpu"),
        ("cpu", ("nvidia0",), "cpu"),
        ("cuda,cpu", (), "cuda"),
        ("tpu", (), "tpu"),
    ],
)
def test_the_platform_at_hand(tmp_path, platforms, files, expected):
    for file in files:
        (tmp_path / file).touch()
    assert platform_at_hand({"JAX_PLATFORMS": platforms}, tmp_path) == expected


@needs_libtpu
def test_chips_and_their_compiler_make_a_tpu(tmp_path):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "0").touch()
    assert platform_at_hand({}, tmp_path) == "tpu"


def test_nothing_is_added_on_a_cpu():
    environ = {"JAX_PLATFORMS": "cpu"}
    assert set_flags(None, environ) == ""
    assert environ == {"JAX_PLATFORMS": "cpu"}
