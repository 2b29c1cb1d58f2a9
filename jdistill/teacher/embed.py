"""Embeds the texts of a store with a teacher."""

import logging
from pathlib import Path

from jdistill.progress import Progress
from jdistill.store import Store, TeacherWriter, check_teacher
from jdistill.teacher.config import TeacherConfig
from jdistill.teacher.describe import describe
from jdistill.teacher.model import Teacher

_log = logging.getLogger(__name__)


def embed(config: TeacherConfig, store_path: str | Path, *, name: str, shards: tuple[int, int] = (0, 1)) -> None:
    """Embed all texts of a store that are not embedded yet; resumes where it was interrupted.

    If the teacher is complete, only checks that its stored description matches the config.

    Args:
      config: the teacher.
      store_path: folder of the store, which already contains the texts.
      name: the teacher's name in the store.
      shards: `(i, n)` embeds every n-th shard starting at i, `0 <= i < n`, to split the work over n jobs; the last job
        to finish completes the teacher.

    Raises:
      UserError: if there is no store, the model cannot be loaded, the store has vectors of this name with other
        settings, or a vector is not finite.
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
        _log.warning("teacher '%s': %d of %d shards remain for other jobs", name, left, writer.shards)
