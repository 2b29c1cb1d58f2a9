"""The largest batch, on chips whose memory is a straight line."""

import pytest

from jdistill.plan.largest import MANY, TRIES, estimate_largest, search_largest

GIB = 2**30
CAPACITY = 16 * GIB


def test_the_estimate_is_on_the_line():
    found = estimate_largest(1024, 2 * GIB, fixed=GIB, capacity=CAPACITY, unit=16)
    assert found.rows == 15 * 1024
    assert found.how == "1,024.0 KiB per row and chip at 1,024 rows, taken as proportional"


def test_the_estimate_is_a_multiple_of_what_devices_and_microbatches_ask_for():
    found = estimate_largest(4096, GIB + 4096 * 10**6, fixed=GIB, capacity=CAPACITY, unit=1024)
    assert found.rows == (15 * GIB // 10**6) // 1024 * 1024


def test_a_batch_that_does_not_fit_leads_to_one_that_does():
    assert estimate_largest(65536, 65 * GIB, fixed=GIB, capacity=CAPACITY, unit=16).rows == 15 * 1024
    assert estimate_largest(64, 18 * GIB, fixed=17 * GIB, capacity=CAPACITY, unit=16).rows == 0


def test_memory_that_does_not_depend_on_the_batch_makes_the_estimate_too_small():
    """2 GiB are fixed, of which 1 GiB is known to be."""
    found = estimate_largest(1024, 3 * GIB, fixed=GIB, capacity=CAPACITY, unit=16)
    assert found.rows == 7680 < 14 * 1024


def test_an_estimate_is_not_trusted_far_out():
    found = estimate_largest(1024, GIB + 1024, fixed=GIB, capacity=CAPACITY, unit=16)
    assert found.rows == MANY * 1024
    assert "room for more" in found.how


@pytest.mark.parametrize(
    ("fixed", "rows", "first", "largest"),
    [
        (2 * GIB, 1024, 7680, 14 * 1024),
        (GIB, 65536, 16384, 15 * 1024),
        (GIB, 1024, 16384, 15 * 1024),
    ],
)
def test_a_search_compiles_until_it_meets_the_line(fixed, rows, first, largest):
    tried = []

    def compiled(rows: int) -> int | None:
        tried.append(rows)
        need = fixed + rows * 2**20
        return need if need <= CAPACITY else None

    used = fixed + rows * 2**20
    found = search_largest(compiled, rows, used if used <= CAPACITY else None, first, capacity=CAPACITY, unit=16)
    assert 0.85 * largest <= found.rows <= largest
    assert found.rows in [*tried, rows], "what is reported was compiled"
    assert len(tried) == len(set(tried)) <= TRIES


def test_a_search_may_find_none():
    found = search_largest(lambda rows: None, 64, None, 32, capacity=CAPACITY, unit=16)
    assert (found.rows, found.how) == (0, "no size compiled fits")
