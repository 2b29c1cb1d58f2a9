"""`jdistill demo`: the full pipeline on text already on your machine, in minutes on two CPU cores.

Trains a search model for the installed Python libraries: given a docstring's summary, it finds the docstring.
"""

from jdistill.demo.config import DemoConfig
from jdistill.demo.run import run_demo

__all__ = ["DemoConfig", "run_demo"]
