"""The only place that knows about devices."""

from jdistill.parallel.in_batch import Objective, check_rows, make_objective
from jdistill.parallel.mesh import make_mesh, replicated, row_sharding
from jdistill.parallel.microbatches import in_microbatches

__all__ = ["Objective", "check_rows", "in_microbatches", "make_mesh", "make_objective", "replicated", "row_sharding"]
