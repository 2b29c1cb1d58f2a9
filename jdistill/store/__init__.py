"""What lies on disk between text and training: texts, rows, teacher vectors, tokens, hidden states.

Everything is a fixed-width .npy file read by memmap, beside a JSON manifest with its sha256. Nothing is half written.
"""

from jdistill.store.check import check_teacher, check_width
from jdistill.store.exchange import VectorColumns, from_dataset, to_dataset
from jdistill.store.hidden import HiddenTable, HiddenWriter
from jdistill.store.reader import Rows, Store, Texts
from jdistill.store.teacher_writer import Prompted, TeacherWriter
from jdistill.store.tokens import Tokenizer, TokenTable, token_table
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
    "Tokenizer",
    "VectorColumns",
    "check_teacher",
    "check_width",
    "from_dataset",
    "to_dataset",
    "token_table",
    "verify",
    "write_texts",
]
