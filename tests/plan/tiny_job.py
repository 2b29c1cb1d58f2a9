"""A train step of a BERT that compiles in seconds: everything a plan needs, no file, no weights."""

from typing import Any

from jdistill.losses import EmbedCosine, InfoNCE
from jdistill.plan import Job, RowForm, planned_student
from jdistill.student import StudentConfig
from jdistill.train.groups import frozen_paths
from tests.train.tiny_run import adamw

ENCODER = {
    "kind": "bert",
    "vocab_size": 512,
    "hidden_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 256,
}


def tiny_job(student: dict[str, Any] | None = None, **changes: Any) -> Job:
    """Pairs of 16 and 32 tokens, a teacher of 384; `student` are fields of StudentConfig, `changes` those of Job."""
    content = {"init": "no/model", "encoder": ENCODER, "dtype": "bfloat16", **(student or {})}
    config = StudentConfig.model_validate(content)
    planned = planned_student(config, {"big": 384})
    optimizer, groups = adamw(100, frozen=frozen_paths(planned.student))
    job = Job(
        name="tiny",
        student=planned.student,
        params=planned.params,
        terms={"align": EmbedCosine(teacher="big"), "contrast": InfoNCE(weight=0.1)},
        optimizer=optimizer,
        groups=groups,
        rows=RowForm(16, 32, 1, 0),
        teacher_widths={"big": 384},
        global_batch_size=64,
        microbatches=1,
        fsdp=1,
        seed=0,
        total_steps=100,
    )
    return job._replace(**changes)
