"""Batches of static shapes from the rows of a store; a step's batch is a pure function of (seed, step, store)."""

from jdistill.loader.config import LoaderConfig, PerSide
from jdistill.loader.loader import Loader, require_rows
from jdistill.loader.shapes import Shape

__all__ = ["Loader", "LoaderConfig", "PerSide", "Shape", "require_rows"]
