"""The GKE manifest: valid by JobSet's schema, and true to the command and its exit codes."""

import math
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from jdistill import cli
from jdistill.exit_codes import EXIT_RETRY
from tests.tpu.jobset import JobSet, JobSpec

MANIFEST = Path(__file__).parents[2] / "tpu" / "jobset.yaml"
ACCELERATOR, TOPOLOGY = (f"cloud.google.com/gke-tpu-{name}" for name in ("accelerator", "topology"))


@pytest.fixture
def job() -> JobSpec:
    (replicated,) = JobSet.model_validate(yaml.safe_load(MANIFEST.read_text())).spec.replicatedJobs
    return replicated.template.spec


def test_the_schema_refuses_what_the_api_server_would() -> None:
    content = yaml.safe_load(MANIFEST.read_text())
    content["spec"]["failurePolicy"]["rules"][0]["action"] = "Restart"
    content["spec"]["replicatedJobs"][0]["template"]["spec"]["backofLimit"] = 0
    with pytest.raises(ValidationError, match=r"(?s)backofLimit.*FailJobSet|FailJobSet.*backofLimit"):
        JobSet.model_validate(content)


def test_pods_take_the_chips_of_the_topology(job: JobSpec) -> None:
    pod = job.template.spec
    (train,) = pod.containers
    chips = math.prod(int(side) for side in pod.nodeSelector[TOPOLOGY].split("x"))
    assert job.parallelism == job.completions
    assert job.parallelism * int(train.resources.limits["google.com/tpu"]) == chips
    assert train.resources.requests == train.resources.limits
    assert pod.nodeSelector[ACCELERATOR].startswith("tpu-")


def test_one_lost_pod_ends_the_job_and_only_mistakes_and_bugs_end_the_run(job: JobSpec) -> None:
    assert job.backoffLimit == 0
    (rule,) = job.podFailurePolicy.rules
    (train,) = job.template.spec.containers
    assert (rule.action, rule.onExitCodes.operator) == ("FailJob", "In")
    assert rule.onExitCodes.containerName == train.name
    assert set(rule.onExitCodes.values) == {1, 2}
    assert EXIT_RETRY not in rule.onExitCodes.values


def test_what_it_runs_is_a_command_of_ours_on_its_shared_disk(job: JobSpec, capsys: pytest.CaptureFixture[str]) -> None:
    (train,), (volume,) = job.template.spec.containers, job.template.spec.volumes
    assert train.command == ["jdistill"]
    assert cli.main(train.args) == 2  # only that the file is not there
    assert "/data/config.yaml: no such file" in capsys.readouterr().err
    assert [mount.name for mount in train.volumeMounts] == [volume.name]
    assert all(word.split("=")[-1].startswith(train.volumeMounts[0].mountPath) for word in train.args[1:])
