"""Early warnings about runs that would learn little.

Each warning is one line: the term, what is wrong with its values, the consequence and what to do. Only near-certain
problems are reported.
"""

from jdistill.train.diagnose.temperatures import learned_values
from jdistill.train.diagnose.watch import Watch

__all__ = ["Watch", "learned_values"]
