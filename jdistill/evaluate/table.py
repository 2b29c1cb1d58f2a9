"""Formats results as a plain-text table of models and metrics, or as JSON."""

import json
from collections.abc import Mapping, Sequence

Results = Mapping[str, Mapping[str, float]]
"""Model -> metric -> value."""


def format_table(results: Results, metrics: Sequence[str] | None = None, *, width: int = 120) -> str:
    """One line per model, one column per metric; columns that do not fit are placed in another block below.

    Args:
      results: model -> metric -> value. Missing metrics are shown as "-".
      metrics: metrics to show, in this order; default: all, in order of appearance.
      width: maximum line length in characters, exceeded only if a single column needs more.
    """
    if metrics is None:
        metrics = list(dict.fromkeys(metric for values in results.values() for metric in values))
    models = ["model", *results]
    first = [model.ljust(max(map(len, models))) for model in models]
    columns = []
    for metric in metrics:
        cells = [metric, *(_shown(values.get(metric)) for values in results.values())]
        columns.append([cell.rjust(max(map(len, cells))) for cell in cells])
    blocks, used = [[first]], len(first[0])
    for column in columns:
        needed = 2 + len(column[0])
        if used + needed > width and len(blocks[-1]) > 1:
            blocks.append([first])
            used = len(first[0])
        blocks[-1].append(column)
        used += needed
    return "\n\n".join(_lines(block) for block in blocks) + "\n"


def format_json(results: Results) -> str:
    """The results as JSON; NaN becomes null."""
    plain = {
        model: {metric: float(value) if value == value else None for metric, value in values.items()}
        for model, values in results.items()
    }
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _lines(columns: Sequence[Sequence[str]]) -> str:
    head, *rows = ("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
    rule = "-" * len("  ".join(column[0] for column in columns))
    return "\n".join([head, rule, *rows])


def _shown(value: float | None) -> str:
    """Four decimals for scores, fewer for large numbers."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.4f}"
