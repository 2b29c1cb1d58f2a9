"""Print how far every loss is from its reference and from itself on several devices: python -m tests.losses.parity

One line per loss x option x batch, with the largest relative difference in value and in gradient. Exit code 1 if one
is above its tolerance: 1e-5, or 1e-2 for bfloat16 inputs.
"""

import logging
import sys
import warnings

import tests.conftest  # noqa: F401  (eight CPU devices and strict numerics, before JAX starts)
from tests.losses.cases import CASES
from tests.losses.inputs import INPUTS, fits
from tests.losses.measure import difference, expected, ours
from tests.parallel.sharded import sharded

DEVICES = (2, 4, 8)


def main() -> int:
    """Number of lines above tolerance, as an exit code."""
    warnings.simplefilter("ignore")
    logging.disable()
    heads = [("reference", 1), *((f"{n} devices", n) for n in DEVICES)]
    print(f"{'':60}" + "".join(f"{head:>20}" for head, _ in heads))
    print(f"{'loss':30}{'batch':30}" + f"{'value':>10}{'gradient':>10}" * len(heads))
    bad = lines = 0
    for name, inputs in INPUTS.items():
        for label in (label for label, case in CASES.items() if fits(case, inputs)):
            gaps = [difference(label, ours(name)[label], expected(label, name))]
            split = [n for n in DEVICES if inputs.rows % n == 0]
            gaps += [difference(label, sharded(name, n)[label], ours(name)[label]) for n in split]
            good = all(x <= inputs.tolerance for gap in gaps for x in gap)
            numbers = "".join(f"{gap.value:10.1e}{gap.gradient:10.1e}" for gap in gaps)
            print(f"{label:30}{name:30}{numbers}{'' if good else '  above tolerance'}", flush=True)
            bad, lines = bad + (not good), lines + 1
    print(f"{lines - bad} of {lines} lines within tolerance")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
