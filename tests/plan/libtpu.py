"""Tests that compile for TPUs run wherever libtpu is installed, and are skipped, with that reason, where it is not."""

import importlib.util

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu is not installed, so nothing can be compiled for TPUs: pip install 'jdistill[aot]'",
)
