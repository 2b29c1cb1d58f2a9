"""From a store of texts to a store of texts and teacher vectors."""

import logging
from pathlib import Path

from jdistill.store import Store, TeacherWriter, check_teacher
from jdistill.store.progress import Progress
from jdistill.teacher.config import TeacherConfig
from jdistill.teacher.describe import describe
from jdistill.teacher.model import Teacher

_log = logging.getLogger(__name__)


def embed(config: TeacherConfig, store_path: str | Path, *, name: str, shards: tuple[int, int] = (0, 1)) -> None:
    """Embed every text of a store that is not embedded yet; goes on where it was killed.

    Args:
      config: which model, and how it is asked.
      store_path: folder of the store; its texts are there already.
      name: the teacher's name in the store.
      shards: `(i, n)` embeds every n-th shard from i, `0 <= i < n`, so that n jobs share the work; whichever ends
        last completes the teacher. A teacher that is complete is only compared with the configuration.

    Raises:
      UserError: if there is no store, if the model cannot be loaded, if vectors of this name were made differently, or
        if a vector is not finite.
    """
    store = Store.open(store_path)
    if name in store.teachers:
        check_teacher(store, name, describe(config))
        return
    teacher = Teacher(config, name=name)
    writer = TeacherWriter(store, name, teacher.description, shard_rows=config.shard_rows)
    index, count = shards
    mine = [shard for shard in range(writer.shards) if shard % count == index]
    missing = set(writer.missing()) & set(mine)
    done = sum(writer.size(shard) for shard in mine if shard not in missing)
    with Progress(f"embed {name}", sum(map(writer.size, mine)), done=done) as progress:
        for shard in sorted(missing):
            writer.write(shard, teacher.encode_prompted(writer.texts(shard), advance=progress.advance))
    if not writer.finish():
        left = len(writer.missing())
        _log.warning("teacher '%s': %d of %d shards are left to other jobs", name, left, writer.shards)
