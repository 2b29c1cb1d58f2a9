"""One function for each verb of the command line: a Recipe in, files and a few printed lines out.

This is where the rooms meet. Everything that can be refused is refused here, before the first device computation.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jdistill import teacher as teachers
from jdistill.config import UserError, load_config
from jdistill.data import fingerprint, read_rows
from jdistill.recipe import Recipe
from jdistill.store import Store, check_teacher, token_table, write_texts

Evaluate = Callable[[Any], dict[str, float]]
"""Student parameters -> metric name -> value."""


def load_recipe(config: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, `key=value` overrides applied."""
    return load_config(Recipe, config, overrides)


def embed(recipe: Recipe, *, shard: str = "0/1") -> None:
    """Write every text once, then each teacher's vector of it; goes on where it was killed.

    Args:
      recipe: its `store`, `data` and `teachers` are used.
      shard: `"i/n"` embeds every n-th shard from i, so that n jobs share the work.
    """
    index, count = _shard(shard)
    sources = [(name, source.role, read_rows(name, source)) for name, source in recipe.data.items()]
    marks = {name: fingerprint(source) for name, source in recipe.data.items()}
    write_texts(recipe.store, sources, fingerprint=marks)
    for name, config in recipe.teachers.items():
        teachers.embed(config, recipe.store, name=name, shards=(index, count))


def open_store(recipe: Recipe) -> Store:
    """The recipe's store, checked against the recipe's teachers.

    Raises:
      UserError: if it is missing or incomplete, or was made with other teachers.
    """
    store = Store.open(recipe.store)
    for name, config in recipe.teachers.items():
        check_teacher(store, name, teachers.describe(config))
    return store


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {text}: expected I/N with 0 <= I < N, such as 0/8 for the first of eight jobs.")
    return int(index), int(count)


def show(config: str | None, overrides: Sequence[str] = (), *, schema: bool = False) -> str:
    """The resolved recipe as YAML, or the JSON Schema of every recipe."""
    from jdistill.config import dump_yaml

    if schema:
        return json.dumps(Recipe.model_json_schema(), indent=2) + "\n"
    if config is None:
        raise UserError("show: which configuration? Give a YAML file, or --schema for the schema of all.")
    return dump_yaml(load_recipe(config, overrides))
