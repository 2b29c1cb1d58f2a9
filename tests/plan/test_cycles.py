"""Cycles and traffic of a scheduled program, counted by hand."""

import pytest

from jdistill.plan.chips import CHIPS
from jdistill.plan.cycles import find_cycles, traffic, traffic_of
from jdistill.plan.hlo import count_runs, parse_hlo
from jdistill.plan.kernels import Kernel
from tests.plan.program import KERNEL_TEXT, TEXT

PROGRAM = parse_hlo(TEXT)
TILE = 8 * 128 * 4


def test_traffic_of_one_instruction():
    main, body = PROGRAM.computations["main"], PROGRAM.computations["body"]
    assert traffic_of(PROGRAM, main["fast"], main) == TILE  # read from HBM, written to fast memory
    assert traffic_of(PROGRAM, main["never"], main) == 3 * TILE
    assert traffic_of(PROGRAM, main["first"], main) == 0
    assert traffic_of(PROGRAM, body["reduced"], body) == 0  # travels over the links
    assert traffic_of(PROGRAM, body["table"], body) == 0
    # Of the table of 1,000 rows the fusion reads only the eight that it slices.
    assert traffic_of(PROGRAM, body["looked"], body) == 3 * TILE


def test_cycles_count_loops_by_their_turns():
    runs, chip = count_runs(PROGRAM), CHIPS["v5e"]
    found = find_cycles(PROGRAM, runs, chip, {})
    assert found.cycles == 50 + 4 * 1000
    # `never` carries the sentinel for "not estimated", and the two fusions around collectives carry nothing.
    main = PROGRAM.computations["main"]
    unknown = sum(traffic_of(PROGRAM, main[name], main) for name in ("never", "begun", "all"))
    assert found.seconds == pytest.approx(4050 / 1.5e9 + unknown / chip.bandwidth)
    assert found.without == pytest.approx(1 - 4050 / 1.5e9 / found.seconds)


def test_what_follows_a_kernel_counts():
    program = parse_hlo(KERNEL_TEXT)
    found = find_cycles(program, count_runs(program), CHIPS["v5e"], {})
    assert found.cycles == 4 * 87217


def test_a_kernel_takes_as_long_as_its_bytes_or_its_products():
    program, chip = parse_hlo(KERNEL_TEXT), CHIPS["v5e"]
    runs, known = count_runs(program), 4 * 87217 / 1.5e9
    kernel = Kernel("splash_mha_fwd", ((2, 256, 128), (2, 12, 256, 64)))
    moved = 4 * (2 * 256 * 128 + 2 * (2 * 12 * 256 * 128))  # a scratch; queries and result, padded to 128 lanes
    by_bytes, by_products = moved / chip.bandwidth, 1e12 / chip.flops
    assert by_bytes < by_products
    for flops, least in ((0.0, by_bytes), (1.0, by_bytes), (1e12, by_products)):
        found = find_cycles(program, runs, chip, {kernel: flops})
        assert found.seconds == pytest.approx(known + 4 * least)
        assert found.without == pytest.approx(4 * least / found.seconds)
    other = find_cycles(program, runs, chip, {kernel._replace(shapes=((2, 256, 128),)): 1e12})
    assert other.seconds == pytest.approx(known + 4 * by_bytes)


def test_traffic_of_a_program():
    main = PROGRAM.computations["main"]
    once = sum(traffic_of(PROGRAM, instruction, main) for instruction in main.values())
    assert traffic(PROGRAM, count_runs(PROGRAM)) == once + 4 * 3 * TILE


def test_a_result_that_is_updated_in_place_counts_as_the_update():
    text = (
        "%update (p.0: f32[1000,128], p.1: f32[8,128]) -> f32[1000,128] {\n"
        "  %p.0 = f32[1000,128]{1,0:T(8,128)} parameter(0)\n"
        "  %p.1 = f32[8,128]{1,0:T(8,128)} parameter(1)\n"
        "  ROOT %new = f32[1000,128]{1,0:T(8,128)} dynamic-update-slice(%p.0, %p.1), x={}\n"
        "}\n\n"
        "ENTRY %main (a: f32[1000,128], b: f32[8,128]) -> f32[1000,128] {\n"
        "  %a = f32[1000,128]{1,0:T(8,128)} parameter(0)\n"
        "  %b = f32[8,128]{1,0:T(8,128)} parameter(1)\n"
        "  ROOT %c = f32[1000,128]{1,0:T(8,128)} fusion(%a, %b), kind=kLoop, calls=%update\n"
        "}\n"
    )
    program = parse_hlo(text)
    assert traffic(program, count_runs(program)) == 3 * TILE


def test_a_chip_without_a_clock_has_no_cycles():
    with pytest.raises(ValueError, match="clock of NVIDIA H100 SXM"):
        find_cycles(PROGRAM, count_runs(PROGRAM), CHIPS["h100"], {})
