"""Reads a text file line by line, in linear time and with at most one line in memory."""

from collections.abc import Iterator
from typing import Protocol

from jdistill.config import UserError

LONGEST_LINE = 1 << 24
"""In bytes. Files with longer lines are refused, as they are most likely not text."""

_BLOCK = 1 << 20


class Stream(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; empty at the end of the file."""
        ...


def read_lines(stream: Stream, *, where: str) -> Iterator[bytes]:
    """Yield every line with its terminator (LF, CR or CRLF), without UTF-8's byte order mark.

    Raises:
      UserError: if a line is longer than 16 MiB, or the file is UTF-16.
    """
    parts: list[bytes] = []
    size, number, begins, held = 0, 1, True, b""
    while block := stream.read(_BLOCK):
        block = held + block
        held = b"\r" if block.endswith(b"\r") else b""  # may be half of a CRLF
        block = block.removesuffix(held)
        if begins:
            _require_no_utf16(block, where)
            block, begins = block.removeprefix(b"\xef\xbb\xbf"), False
        for part in block.splitlines(keepends=True):
            parts.append(part)
            size += len(part)
            if size > LONGEST_LINE:
                raise UserError(
                    f"{where}: line {number} is longer than {LONGEST_LINE >> 20} MiB; expected a text file with one "
                    "row per line. Convert it."
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
