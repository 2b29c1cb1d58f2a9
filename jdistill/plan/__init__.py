"""Reports what a training step needs on absent chips: compiled ahead of time for TPUs, added up for CUDA."""

from jdistill.plan.job import Job
from jdistill.plan.plan import Plan, make_plan
from jdistill.plan.report import as_values, format_plan
from jdistill.plan.rows import RowForm, Shared, SharedRows
from jdistill.plan.student import MAX_LENGTH, PlannedStudent, planned_student
from jdistill.plan.topology import Topology, parse_topology, topology_devices

__all__ = [
    "MAX_LENGTH",
    "Job",
    "Plan",
    "PlannedStudent",
    "RowForm",
    "Shared",
    "SharedRows",
    "Topology",
    "as_values",
    "format_plan",
    "make_plan",
    "parse_topology",
    "planned_student",
    "topology_devices",
]
