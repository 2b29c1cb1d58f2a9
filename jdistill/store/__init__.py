"""The store, the on-disk data that training reads: texts, rows, teacher vectors, tokens and hidden states.

All arrays are memory-mapped .npy files with a JSON manifest of their sha256 hashes. All writes are atomic.
"""

from jdistill.store.check import check_teacher, check_width
from jdistill.store.exchange import VectorColumns, from_dataset, to_dataset
from jdistill.store.hidden import HiddenTable, HiddenWriter
from jdistill.store.reader import Rows, Store, Texts
from jdistill.store.teacher_writer import Prompted, TeacherWriter
from jdistill.store.tokens import TokenizerLike, TokenTable, token_table
from jdistill.store.vectors import TeacherVectors
from jdistill.store.verify import verify
from jdistill.store.writer import write_texts

__all__ = [
    "HiddenTable",
    "HiddenWriter",
    "Prompted",
    "Rows",
    "Store",
    "TeacherVectors",
    "TeacherWriter",
    "Texts",
    "TokenTable",
    "TokenizerLike",
    "VectorColumns",
    "check_teacher",
    "check_width",
    "from_dataset",
    "to_dataset",
    "token_table",
    "verify",
    "write_texts",
]
