"""The shell scripts: what they would run, and what they do when a slice is taken away. gcloud and SLURM are mimed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [*sorted((ROOT / "tpu").glob("*.sh")), *sorted((ROOT / "scripts").glob("*.sbatch"))]
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
SLICE = ["pod", "--zone", "us-a", "--type", "v6e-16", "--slices", "2", "--spot"]
TRAIN = ["--", "configs/debug.yaml", "name=a b"]


def bash(*words: object, path: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "WATCH_SECONDS": "0", "RETRY_SECONDS": "0", **variables}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    command = ["bash", *(str(word) for word in words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def stand_in(folder: Path, name: str, body: str) -> None:
    """A command `name` that does `body`."""
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_valid(script: Path) -> None:
    assert bash("-n", script).returncode == 0
    if SHELLCHECK is None:
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run([SHELLCHECK, script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert checked.returncode == 0, checked.stdout


def test_dry_runs_print_the_commands_and_run_none(tmp_path: Path) -> None:
    stand_in(tmp_path, "gcloud", "echo called >&2; exit 9")
    create = bash("tpu/create.sh", *SLICE, "--dry-run", path=tmp_path).stdout
    assert create == (
        "gcloud compute tpus queued-resources create pod --zone=us-a --accelerator-type=v6e-16 "
        "--runtime-version=v2-alpha-tpuv6e --node-count=2 --node-prefix=pod --spot \n"
    )
    delete = bash("tpu/delete.sh", "pod", "--zone", "us-a", "--dry-run", path=tmp_path).stdout
    assert delete == "gcloud compute tpus queued-resources delete pod --zone=us-a --force --quiet \n"
    launch = bash("tpu/launch.sh", *SLICE, "--nfs", "10.0.0.2:/share", "--dry-run", *TRAIN, path=tmp_path).stdout
    assert [line.split()[:5] for line in launch.splitlines()[1:]] == [
        ["gcloud", "compute", "tpus", "queued-resources", what] for what in ("scp", "ssh")
    ]
    watch = bash("tpu/watch.sh", *SLICE, "--dry-run", *TRAIN, path=tmp_path)
    done = [line.split()[4] for line in watch.stdout.splitlines() if line.startswith("gcloud")]
    assert done == ["describe", "create", "scp", "ssh", "ssh", "delete"]
    assert "called" not in watch.stderr
    train = bash("scripts/train.sbatch", "--dry-run", "configs/debug.yaml", "train.steps=5").stdout
    assert train == "srun --kill-on-bad-exit=1 .venv/bin/jdistill train configs/debug.yaml train.steps=5 \n"


@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
@pytest.mark.slow
def test_gcloud_knows_every_flag(tmp_path: Path) -> None:
    printed = bash("tpu/watch.sh", *SLICE, "--nfs", "10.0.0.2:/share", "--dry-run", *TRAIN).stdout
    for line in printed.splitlines():
        if line.startswith("gcloud"):
            words = line.split(" ")
            help_text = subprocess.run(
                [*words[:5], "--help"],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "CLOUDSDK_CONFIG": str(tmp_path), "TERM": "dumb"},
            ).stdout
            flags = {word.split("=")[0] for word in words[5:] if word.startswith("--")}
            unknown = {flag for flag in flags - {"--format", "--quiet"} if flag not in help_text}  # all have these two
            assert not unknown, words[4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create.sh", "pod"], "no zone"),
        (["create.sh", "pod", "--zone"], "--zone needs a value"),
        (["create.sh", "pod", "--zone", "a", "--slices", "0"], "--slices: is '0'"),
        (["delete.sh", "pod", "other", "--zone", "a"], "two names, pod and other"),
        (["delete.sh", "pod", "--zone", "a", "--now"], "unknown option --now"),
        (["launch.sh", "pod", "--zone", "a"], "nothing to train"),
    ],
)
def test_mistakes_are_refused(words: list[str], message: str) -> None:
    refused = bash(f"tpu/{words[0]}", *words[1:])
    assert refused.returncode == 2
    assert message in refused.stderr


def test_watch_brings_a_run_to_its_end_over_slices_that_are_taken_away(tmp_path: Path) -> None:
    """States as a queued resource goes through them, one for each time that it is looked at."""
    states = ["NONE", "WAITING_FOR_RESOURCES", "ACTIVE", "ACTIVE", "SUSPENDED", "NONE", "ACTIVE", "ACTIVE"]
    looks = ["", "step 5/9", "", "exit 0"]
    for name, lines in (("states", states), ("looks", looks)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    body = f"""
cd {tmp_path}
next() {{ head -n 1 "$1"; sed -i 1d "$1"; }}
case "$4 $*" in
  describe*) state=$(next states); [[ $state != NONE ]] && echo "$state" ;;
  ssh*--node=0*) next looks ;;
  ssh*) echo launch >>done ;;
  *) echo "$4" >>done ;;
esac
"""
    stand_in(tmp_path, "gcloud", body)
    stand_in(tmp_path, "git", "exit 0")
    watch = bash("tpu/watch.sh", *SLICE, *TRAIN, path=tmp_path)
    assert watch.returncode == 0, watch.stderr
    assert (tmp_path / "done").read_text().split() == [
        *("create", "scp", "launch", "delete"),
        *("create", "scp", "launch"),
    ]
    assert "pod: step 5/9" in watch.stdout


@pytest.mark.parametrize(("code", "starts"), [(0, 1), (1, 1), (2, 1), (75, 3), (134, 3)])
def test_again_starts_what_asks_for_it(tmp_path: Path, code: int, starts: int) -> None:
    ended = bash("tpu/retry.sh", "bash", "-c", f"echo x >>{tmp_path}/starts; exit {code}", RETRIES="2")
    assert ended.returncode == code
    assert len((tmp_path / "starts").read_text().split()) == starts


def test_again_hands_sigterm_on_and_starts_nothing_after_it(tmp_path: Path) -> None:
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(75)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).open('a').write('x')\n"
        "time.sleep(60)\n"
    )
    started = subprocess.Popen(["bash", "tpu/retry.sh", sys.executable, "-c", program], cwd=ROOT)
    end = time.monotonic() + 60
    while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_text():
        assert time.monotonic() < end
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    assert started.wait(60) == 75
    assert (tmp_path / "ready").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "before", "requeued"), [(0, 0, False), (2, 0, False), (75, 0, True), (137, 0, True), (75, 100, False)]
)
def test_slurm_jobs_go_back_into_the_queue(tmp_path: Path, code: int, before: int, requeued: bool) -> None:
    stand_in(tmp_path, "srun", f"exit {code}")
    stand_in(tmp_path, "scontrol", f'echo "$@" >{tmp_path}/asked')
    job = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(before)}
    assert bash("scripts/train.sbatch", "configs/debug.yaml", path=tmp_path, **job).returncode == code
    asked = tmp_path / "asked"
    assert (asked.read_text().split() if asked.exists() else None) == (["requeue", "7"] if requeued else None)
