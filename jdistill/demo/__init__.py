"""`jdistill demo`: the whole river on text that every installation has, in minutes on two CPU cores.

A search model for one's own Python libraries: from a docstring's summary it finds the docstring.
"""

from jdistill.demo.config import DemoConfig
from jdistill.demo.run import run_demo

__all__ = ["DemoConfig", "run_demo"]
