"""Plans of the shipped configurations for TPU slices, as the table in docs/plans.md.

    python scripts/make_plans.py                          every configuration on every slice; an hour on two cores
    python scripts/make_plans.py --configs configs/minilm-embed-cosine.yaml --topologies v5e:4x4

Plans are made one at a time, each in its own process, and cached under --cache, so that an interrupted run can resume.
A plan that takes longer than --seconds is left out of the table, and listed below it.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGS = (
    "configs/minilm-embed-cosine.yaml",
    "configs/minilm-contrast-32k.yaml",
    "configs/bert-base-embed-cosine.yaml",
)
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:8x8")

HEAD = """\
# Plans

What one training step of the shipped configs needs on TPU slices, compiled ahead of time on a machine without a TPU.
Nothing was run on the chips: memory and collectives are those of the compiled program, times are lower bounds from
published peaks. `jdistill plan` shows more.

    python scripts/make_plans.py

"""

COLUMNS = (
    *("configuration", "slice", "rows per step", "memory per chip", "of HBM", "collectives", "TFLOP per chip"),
    *("compute", "HBM", "interconnect", "rows/s, at most", "largest batch", "attention"),
)

FOOT = """
- Rows per step: all chips together; `/2` is the number of microbatches.
- Collectives: bytes of the full values per step, read from the compiled program.
- TFLOP per chip: matrices and attention by formula, without recomputation and the loss.
- Compute, HBM, interconnect: least times at published peaks; no step is faster than the largest of them. HBM counts
  every byte of state and temporary memory once in each direction, so a real step moves more.
- Largest batch: memory beyond parameters, optimizer state and gradients taken as proportional to the rows; "+": there
  is room for more.
- Attention: by XLA, with scores passing through memory, or by a kernel (Pallas, splash) that keeps them on the chip.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", default=CONFIGS)
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    parser.add_argument("--out", type=Path, default=Path("docs/plans.md"))
    parser.add_argument("--cache", type=Path, default=Path("runs/plans"), help="folder of cached plans")
    parser.add_argument("--seconds", type=float, default=3600, help="timeout of one plan")
    parser.add_argument("--cached", action="store_true", help="make no new plans, write the page from cached ones")
    options = parser.parse_args(arguments)
    rows, missing, assumed = [], [], {}
    for topology in options.topologies:  # the slow ones last
        for config in options.configs:
            plan = made(config, topology, options.cache, 0 if options.cached else options.seconds)
            if plan is None:
                why = "not made yet" if options.cached else f"not made in {options.seconds:.0f} s"
                missing.append(f"{Path(config).stem} on {topology}: {why}")
            else:
                rows.append((list(options.configs).index(config), row(plan)))
                assumed[plan["name"]] = plan["assumed"]
            write(options.out, [line for _, line in sorted(rows, key=lambda pair: pair[0])], missing, assumed)
    return 0


def made(config: str, topology: str, cache: Path, seconds: float) -> dict[str, Any] | None:
    """The plan, from the cache or made in a separate process; None on timeout."""
    path = cache / f"{Path(config).stem}-{topology.replace(':', '-')}.json"
    if not path.is_file() and seconds == 0:
        return None
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "jdistill", "plan", config, "--json", "--topology", topology]
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise SystemExit(done.returncode)
        path.write_text(done.stdout, encoding="utf-8")
    plan = json.loads(path.read_text(encoding="utf-8"))[0]
    print(f"{plan['name']} on {topology}: {plan['seconds_to_plan']:.0f} s", flush=True)
    return plan


def row(plan: dict[str, Any]) -> str:
    """One line of the table."""
    roof, memory = plan["roofline_estimate"], plan["memory"]
    used = memory["total"] if memory else plan["memory_needed"]
    pieces = f"/{plan['microbatches']}" if plan["microbatches"] > 1 else ""
    largest = plan["largest_batch"]
    more = "+" if largest and "room for more" in largest["how"] else ""
    cells = [
        plan["name"],
        plan["topology"],
        f"{plan['global_batch_size']:,}{pieces}",
        f"{used / 2**30:.1f} GiB" if used else "-",
        f"{used / plan['memory_available']:.0%}" + ("" if plan["fits"] else ", does not fit") if used else "-",
        f"{sum(c['bytes'] for c in plan['collectives'] or ()) / 2**20:,.0f} MiB",
        f"{plan['flops']['model_by_formula'] / 1e12:.2f}",
        *(f"{1e3 * roof[part]:.1f} ms" for part in ("compute", "memory", "communication")),
        f"{roof['rows_per_second_all_chips']:,.0f}",
        f"{largest['rows']:,}{more}" if largest else "-",
        " and ".join(way for way, name in (("kernel", "Pallas"), ("XLA", "XLA")) if name in (plan["attention"] or "")),
    ]
    return "| " + " | ".join(cells) + " |"


def write(out: Path, rows: Sequence[str], missing: Sequence[str], assumed: dict[str, list[str]]) -> None:
    """Write the page with the plans so far."""
    lines = [f"- {name}: {'; '.join(sentences)}." for name, sentences in sorted(assumed.items()) if sentences]
    notes = "\nAssumptions, without access to hub or store:\n\n" + "\n".join(lines) + "\n" if lines else ""
    lacking = "\nNot in the table:\n\n" + "\n".join(f"- {line}" for line in missing) + "\n" if missing else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    table = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS), *rows]
    out.write_text(HEAD + "\n".join(table) + "\n" + FOOT + notes + lacking, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
