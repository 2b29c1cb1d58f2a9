"""Meshes, sharding, collectives and processes: the only package that handles devices."""

from jdistill.parallel.accumulate import accumulated
from jdistill.parallel.in_batch import Objective, check_rows, make_device_objective, make_objective
from jdistill.parallel.mesh import make_mesh, replicated, row_sharding
from jdistill.parallel.microbatches import in_microbatches
from jdistill.parallel.preemption import PreemptedError, Preemption
from jdistill.parallel.processes import LostProcessError, address, joined, leave
from jdistill.parallel.sharding import state_sharding
from jdistill.parallel.synchronize import as_process_0, check_shared, host_share, local_copy, process_0_first

__all__ = [
    "LostProcessError",
    "Objective",
    "PreemptedError",
    "Preemption",
    "accumulated",
    "address",
    "as_process_0",
    "check_rows",
    "check_shared",
    "host_share",
    "in_microbatches",
    "joined",
    "leave",
    "local_copy",
    "make_device_objective",
    "make_mesh",
    "make_objective",
    "process_0_first",
    "replicated",
    "row_sharding",
    "state_sharding",
]
