"""`jdistill embed`: from texts and teachers to a store."""

from jdistill import teacher
from jdistill.config import UserError
from jdistill.data import fingerprint, read_rows
from jdistill.recipe import Recipe
from jdistill.store import write_texts


def embed(recipe: Recipe, *, shard: str = "0/1") -> None:
    """Write every text once, then its vector from each teacher; resumes where it was interrupted.

    Args:
      recipe: its `store`, `data` and `teachers` are used.
      shard: `"i/n"` embeds every n-th shard starting at i, to split the work over n jobs.

    Raises:
      UserError: if a teacher's folder cannot be used (checked first), a source cannot be read, or the store was made
        from other sources or teachers.
    """
    part = _shard(shard)
    for name, config in recipe.teachers.items():
        teacher.check_folder(config, where=f"teachers.{name}")
    sources = [(name, source.role, read_rows(name, source)) for name, source in recipe.data.items()]
    write_texts(recipe.store, sources, fingerprint=fingerprint(recipe.data))
    for name, config in recipe.teachers.items():
        teacher.embed(config, recipe.store, name=name, shards=part)


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise UserError(f"--shard {text}: expected I/N with 0 <= I < N, such as 0/8 for the first of eight jobs.")
    return int(index), int(count)
