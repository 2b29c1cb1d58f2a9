"""What `tpu/jobset.yaml` may say: the schema of the JobSet resource, v1alpha2, cut to the fields that it uses.

Names, types and allowed values are those of the CRD that JobSet's releases carry, and below it those of Kubernetes'
batch/v1 and core/v1. A field that is not here is refused, as the API server refuses one that it does not know.
"""
# ruff: noqa: N815 # Kubernetes names its fields

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
"""An RFC 1123 label."""
Strings = dict[str, str]
Reason = Literal[
    "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"
]
"""Why a Job of batch/v1 failed."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Resources(Strict):
    requests: Strings
    limits: Strings


class VolumeMount(Strict):
    name: Name
    mountPath: Annotated[str, StringConstraints(pattern="^/[^:]*$")]


class Container(Strict):
    name: Name
    image: Annotated[str, Field(min_length=1)]
    command: list[str]
    args: list[str]
    resources: Resources
    volumeMounts: list[VolumeMount]


class Claim(Strict):
    claimName: str


class Volume(Strict):
    name: Name
    persistentVolumeClaim: Claim


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    value: str
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class PodSpec(Strict):
    restartPolicy: Literal["Never"]
    """The only one that a podFailurePolicy allows."""
    terminationGracePeriodSeconds: Annotated[int, Field(ge=0)]
    nodeSelector: Strings
    tolerations: list[Toleration]
    containers: list[Container]
    volumes: list[Volume]


class PodTemplate(Strict):
    spec: PodSpec


class OnExitCodes(Strict):
    containerName: Name
    operator: Literal["In", "NotIn"]
    values: Annotated[list[int], Field(min_length=1, max_length=255)]


class PodFailureRule(Strict):
    action: Literal["FailJob", "FailIndex", "Ignore", "Count"]
    onExitCodes: OnExitCodes


class PodFailurePolicy(Strict):
    rules: Annotated[list[PodFailureRule], Field(max_length=20)]


class JobSpec(Strict):
    parallelism: Annotated[int, Field(ge=0)]
    completions: Annotated[int, Field(ge=0)]
    backoffLimit: Annotated[int, Field(ge=0)]
    completionMode: Literal["Indexed", "NonIndexed"]
    podFailurePolicy: PodFailurePolicy
    template: PodTemplate


class JobTemplate(Strict):
    spec: JobSpec


class ReplicatedJob(Strict):
    name: Name
    replicas: int
    template: JobTemplate


class FailureRule(Strict):
    name: Annotated[str, StringConstraints(pattern="^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=128)]
    action: Literal["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
    onJobFailureReasons: list[Reason]


class FailurePolicy(Strict):
    maxRestarts: int
    rules: Annotated[list[FailureRule], Field(max_length=20)]


class Spec(Strict):
    failurePolicy: FailurePolicy
    replicatedJobs: list[ReplicatedJob]


class Metadata(Strict):
    name: Name
    annotations: Strings


class JobSet(Strict):
    apiVersion: Literal["jobset.x-k8s.io/v1alpha2"]
    kind: Literal["JobSet"]
    metadata: Metadata
    spec: Spec
