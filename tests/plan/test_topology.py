"""Names of slices, and what is said where a slice or the compiler is not there."""

import re

import pytest

from jdistill.config import UserError
from jdistill.plan import parse_topology, topology_devices
from jdistill.plan import topology as module
from jdistill.plan.chips import CHIPS
from tests.plan.libtpu import needs_libtpu


def test_names_of_slices():
    assert parse_topology("v5e:16x16").chips == 256
    assert parse_topology("V5P:4x4x4").shape == (4, 4, 4)
    assert parse_topology("h200:8").chip.platform == "cuda"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "expected CHIP:SHAPE, such as v5e:4x4"),
        ("v9:2x2", "unknown chip 'v9'. Known: v5e, v5p, v6e, h100, h200."),
        ("v5e:4", "expected v5e:AxB, such as v5e:4x4."),
        ("v5p:4x4", "expected v5p:AxBxC, such as v5p:4x4x4."),
        ("h100:2x4", "expected h100:N, such as h100:8."),
        ("v5e:0x4", "such as v5e:4x4."),
    ],
)
def test_other_names_are_refused(name, message):
    with pytest.raises(UserError, match=re.escape(f"--topology {name}: ") + ".*" + re.escape(message)):
        parse_topology(name)


@needs_libtpu
def test_a_shape_that_no_slice_has():
    with pytest.raises(UserError, match=r"v5e:3x2: the TPU compiler knows no such slice \(.*2x2x1"):
        topology_devices("v5e:3x2")


def test_without_the_compiler(monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(UserError, match=re.escape("pip install 'jdistill[aot]'")):
        topology_devices("v5e:2x2")


def test_cuda_has_no_compiler_here():
    with pytest.raises(UserError, match="ahead-of-time compilation supports TPU slices only"):
        topology_devices("h100:8")


def test_published_figures_are_those_of_the_right_magnitude():
    for chip in CHIPS.values():
        assert 100e12 < chip.flops < 1000e12
        assert 15e9 < chip.memory < 150e9
        assert 0.5e12 < chip.bandwidth < 5e12
        assert 40e9 < chip.link < 500e9
        assert parse_topology(chip.example).chip == chip
