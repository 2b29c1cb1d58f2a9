"""Lines of a text file, one after the other: linear in time, and never more than one of them in memory."""

from collections.abc import Iterator
from typing import Protocol

from jdistill.config import UserError

LONGEST_LINE = 1 << 24
"""In bytes. A file with a longer line is refused: it is most likely not a text file."""

_BLOCK = 1 << 20


class Stream(Protocol):
    """Bytes to read."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end of the file."""
        ...


def read_lines(stream: Stream, *, where: str) -> Iterator[bytes]:
    """Every line with its end, which is a line feed, a carriage return, or both; without UTF-8's byte order mark.

    Raises:
      UserError: if a line is longer than 16 MiB, or the file is UTF-16.
    """
    parts: list[bytes] = []
    size, number, begins, held = 0, 1, True, b""
    while block := stream.read(_BLOCK):
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""  # may be half of a line end
        block = block.removesuffix(held)
        if begins:
            _require_no_utf16(block, where)
            block, begins = block.removeprefix(b"\xef\xbb\xbf"), False
        for part in block.splitlines(keepends=True):
            parts.append(part)
            size += len(part)
            if size > LONGEST_LINE:
                raise UserError(
                    f"{where}: line {number} is longer than {LONGEST_LINE >> 20} MiB, so this is not a text file "
                    "with one row per line. Convert it."
                )
            if part.endswith((b"\n", b"\r")):
                yield b"".join(parts)
                parts, size, number = [], 0, number + 1
    if parts or held:
        yield b"".join([*parts, held])


def decoded(line: bytes, place: str) -> str:
    """A line as text.

    Raises:
      UserError: if it is not UTF-8.
    """
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte 0x{line[error.start]:02x}, character {error.start + 1} of the line"
        raise UserError(f"{place}: is not UTF-8 ({found}). Save the file as UTF-8.") from error


def _require_no_utf16(block: bytes, where: str) -> None:
    if block.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{where}: is UTF-16 text, expected UTF-8. Save the file as UTF-8.")
