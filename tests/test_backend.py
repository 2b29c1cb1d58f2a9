"""Environment of JAX before it starts: compiler flags that exist, and a folder for compiled programs.

What the user set stays, and only the flags of the platform at hand are added. The second start takes its programs from
the folder.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

from jdistill import backend
from jdistill.backend import (
    ALONE,
    CACHE_BYTES,
    FLAGS,
    check_compiler,
    drop_incomplete,
    platform_at_hand,
    prepare,
    set_cpu_flags,
    set_flags,
)
from jdistill.config import UserError
from tests.plan.libtpu import needs_libtpu

pytestmark = pytest.mark.optimized


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


GATHERS = """
import sys, jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from jdistill.plan import topology_devices
mesh = Mesh(topology_devices(sys.argv[1]), "x")
local = lambda x: jax.lax.psum(x @ jax.lax.all_gather(x, "x", tiled=True).T, "x")
step = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("x"), out_specs=P()))
step.lower(jax.ShapeDtypeStruct((2048, 256), jnp.float32, sharding=NamedSharding(mesh, P("x")))).compile()
"""


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_tpu_accepts_the_flags_with_collectives(topology):
    # Some flags are refused on some chips, and only when there is a collective to change.
    command = [sys.executable, "-c", GATHERS, topology]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "LIBTPU_INIT_ARGS": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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


FUSIONS = "--xla_cpu_experimental_ynn_fusion_type"
NO_REDUCTIONS = f"{FUSIONS}=-reduce"


@pytest.mark.parametrize(
    ("platforms", "given", "expected"),
    [
        ("cpu", "", NO_REDUCTIONS),
        ("cuda", "--xla_dump_to=/x", f"--xla_dump_to=/x {NO_REDUCTIONS}"),
        ("cpu", f"{FUSIONS}=-dot", f"{FUSIONS}=-dot,-reduce"),
        ("cpu", f"{FUSIONS}=-dot,+eltwise --xla_dump_to=/x", f"{FUSIONS}=-dot,+eltwise,-reduce --xla_dump_to=/x"),
        ("cpu", f"{FUSIONS}=-dot,-reduce", f"{FUSIONS}=-dot,-reduce"),
        ("cpu", f"{FUSIONS}=dot {FUSIONS}=-dot", f"{FUSIONS}=dot {FUSIONS}=-dot,-reduce"),
        ("cpu", f"{FUSIONS}=+reduce", f"{FUSIONS}=+reduce"),
        ("cpu", f"{FUSIONS}=dot", f"{FUSIONS}=dot"),
        ("cpu", f"{FUSIONS}=", f"{FUSIONS}="),
        ("cpu", "/home/me/flags.txt", "/home/me/flags.txt"),
        ("tpu", "", None),
    ],
)
def test_the_flag_of_cpus_is_set_wherever_libtpu_does_not_read_it(platforms, given, expected):
    environ = {"JAX_PLATFORMS": platforms} | ({"XLA_FLAGS": given} if given else {})
    for _ in range(2):  # a second time adds nothing
        set_cpu_flags(environ)
        assert environ.get("XLA_FLAGS") == expected


SUMS = """
import jax, jax.numpy as jnp, numpy as np
n = 32_769
rows = jnp.stack((jnp.arange(n, dtype=jnp.float32), jnp.zeros(n), jnp.zeros(n)), axis=1)
squares = jax.jit(lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2))(x))(rows)
e = np.random.default_rng(0).standard_normal((5, 60, 60)).astype(np.float32)
found = [jax.jit(lambda e: jnp.sum((e @ jnp.full_like(e, c)) * e, -1))(e) for c in (1.0, 2.0, 3.0)]
right = [c * e.sum(-1, dtype=np.float64) ** 2 for c in (1.0, 2.0, 3.0)]
print(int(squares[-1]), max(np.abs(f - r).max() / r.max() for f, r in zip(found, right)) < 1e-5)
"""


@pytest.mark.parametrize(
    "start",
    ["import jdistill\n", "import jax\nimport jdistill\n", "from jdistill import backend; backend.prepare()\n"],
)
def test_sums_that_xla_gets_wrong_by_itself(start, tmp_path):
    ended = started(start + SUMS, XLA_FLAGS="", HOME=str(tmp_path))
    assert ended.stderr == ""
    assert ended.stdout.split() == [str(32_768**2), "True"]


CHECK = "from jdistill.backend import check_compiler; check_compiler()"


def test_a_compiler_that_is_wrong_is_refused(monkeypatch):
    check_compiler()
    for wrong in (1.1, float("nan")):
        monkeypatch.setattr("jax.jit", lambda _, wrong=wrong, **__: lambda e: wrong * 2 * e.sum(-1) ** 2)
        with pytest.raises(UserError, match=rf"computes wrong sums .* Set XLA_FLAGS={NO_REDUCTIONS}"):
            check_compiler()


RECIPE = """
name: none
run: {folder}/run
store: {folder}/store
data: {{texts: {{path: {folder}/texts.txt, columns: {{text: text}}}}}}
teachers: {{}}
student: {{init: {folder}/student}}
losses: {{contrast: {{kind: info_nce}}}}
train: {{steps: 1, global_batch_size: 2}}
"""

KNOWN_WRONG = ("0.10.2", "0.11.2", "0.12.0")


@pytest.mark.skipif(version("jaxlib") not in KNOWN_WRONG, reason="this jaxlib may compute right sums by itself")
def test_nothing_is_trained_or_evaluated_where_sums_are_wrong(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    program = "import sys; from jdistill.cli import main; sys.exit(main(sys.argv[1:]))"
    for verb, flags in (("train", f"{FUSIONS}=+reduce"), ("evaluate", f"{FUSIONS}=+reduce"), ("train", "")):
        command = [sys.executable, "-c", program, verb, str(tmp_path / "recipe.yaml")]
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert ended.returncode == 2, ended.stderr  # what the recipe lacks is everything else
        assert ended.stderr.startswith("error: ")
        assert ended.stderr.count("\n") == 1
        assert (f"computes wrong sums on this CPU with XLA_FLAGS='{flags}'" in ended.stderr) == bool(flags)
        assert (f"Set XLA_FLAGS={NO_REDUCTIONS}" in ended.stderr) == bool(flags)


def test_importing_the_package_imports_nothing_heavy():
    ended = started("import jdistill, sys; print(*sys.modules)")
    assert not {"jax", "numpy", "pydantic", "yaml"} & set(ended.stdout.split())


def test_programs_are_cached_in_the_users_folder_by_default(tmp_path):
    environ = {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    prepare(environ)
    assert environ["JAX_COMPILATION_CACHE_DIR"].startswith(f"{tmp_path}/.cache/jdistill/cpu-")
    assert environ["JAX_COMPILATION_CACHE_MAX_SIZE"] == str(CACHE_BYTES)
    own = {"HOME": str(tmp_path), "JAX_PLATFORMS": "cuda", "JAX_COMPILATION_CACHE_DIR": "/mine"}
    prepare(own)
    assert own["JAX_COMPILATION_CACHE_DIR"] == "/mine"
    assert "JAX_COMPILATION_CACHE_MAX_SIZE" not in own
    off = {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    prepare(off)
    assert "JAX_COMPILATION_CACHE_DIR" not in off


@needs_libtpu
def test_libtpu_is_quiet_where_there_is_no_tpu(tmp_path):
    if platform_at_hand({}) != "cpu":
        pytest.skip("this machine has an accelerator")
    environ = {"HOME": str(tmp_path)}
    prepare(environ)
    assert ALONE.items() <= environ.items()


CACHED = """
from jdistill import backend; backend.prepare()
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
print(float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((8, 8)))))
print(sum(name == "/jax/compilation_cache/cache_hits" for name in hits))
"""


def cached(home: Path) -> tuple[float, int]:
    """What a fresh process computes, and how many programs it takes from the cache; it has nothing to complain of."""
    ended = started(CACHED, HOME=str(home), XDG_CACHE_HOME="", JAX_ENABLE_COMPILATION_CACHE="true")
    assert ended.stderr == ""
    value, hits = ended.stdout.split()
    return float(value), int(hits)


def test_a_second_start_takes_the_program_from_the_cache(tmp_path):
    assert cached(tmp_path) == (512.0, 0)
    value, hits = cached(tmp_path)
    assert value == 512.0
    assert hits > 0


def test_a_program_whose_writer_was_killed_is_written_again(tmp_path):
    assert cached(tmp_path)[1] == 0
    whole = cached(tmp_path)[1]
    (folder,) = (tmp_path / ".cache" / "jdistill").iterdir()
    one, *others = sorted(folder.glob("*-cache"))
    one.write_bytes(one.read_bytes()[:100])
    one.with_name(one.name.removesuffix("-cache") + "-atime").unlink()
    assert others
    assert cached(tmp_path)[1] == whole - 1
    assert cached(tmp_path)[1] == whole


def test_a_cache_without_a_limit_is_left_alone(tmp_path):
    prepare(environ := {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"})
    folder = Path(environ["JAX_COMPILATION_CACHE_DIR"])
    folder.mkdir(parents=True)
    (folder / "jit_f-0-cache").touch()
    home = {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    prepare(home | {"JAX_COMPILATION_CACHE_MAX_SIZE": "-1"})
    assert (folder / "jit_f-0-cache").exists()
    prepare(home)
    assert not (folder / "jit_f-0-cache").exists()


def test_another_process_that_uses_the_cache_is_not_waited_for_long(tmp_path, monkeypatch):
    program = tmp_path / "jit_f-0-cache"
    program.touch()
    monkeypatch.setattr(backend, "LOCK_SECONDS", 0)
    with FileLock(tmp_path / ".lockfile"):
        drop_incomplete(tmp_path)
    assert program.exists()
    drop_incomplete(tmp_path)
    assert not program.exists()
