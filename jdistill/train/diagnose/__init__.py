"""Warnings of a run that would learn little.

Each is one line that names the term, what is wrong with its values, what that means and what to do. Only what is
nearly certain is said; a run that is well says nothing.
"""

from jdistill.train.diagnose.temperatures import learned_values
from jdistill.train.diagnose.watch import Watch

__all__ = ["Watch", "learned_values"]
