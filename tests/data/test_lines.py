import io
import time

import pytest

from jdistill.config import UserError
from jdistill.data import lines
from jdistill.data.lines import read_lines


def test_line_ends_over_block_borders(monkeypatch):
    content = b"a\r\nbc\r\rd\n\ne"
    for block in range(1, 9):
        monkeypatch.setattr(lines, "_BLOCK", block)
        assert list(read_lines(io.BytesIO(content), where="x")) == content.splitlines(keepends=True)


def test_millions_of_carriage_returns_take_linear_time():
    start = time.perf_counter()
    assert sum(1 for _ in read_lines(io.BytesIO(b"\r" * 3_000_000), where="x")) == 3_000_000
    assert time.perf_counter() - start < 10


def test_what_has_no_line_ends_is_refused_after_16_mib():
    class Endless:
        given = 0

        def read(self, size):
            self.given += size
            return b"x" * size

    stream, start = Endless(), time.perf_counter()
    with pytest.raises(UserError, match=r"x: line 1 is longer than 16 MiB"):
        list(read_lines(stream, where="x"))
    assert stream.given < 20 << 20
    assert time.perf_counter() - start < 5
