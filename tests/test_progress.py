import subprocess
import sys

from jdistill import progress
from jdistill.progress import Progress


def test_silent_when_quick(capsys):
    with Progress("embed x", 10) as bar:
        bar.advance(10)
    assert capsys.readouterr().err == ""


def test_calm_lines_with_rate_and_time_left_off_a_terminal(capsys, monkeypatch):
    clock = iter([0.0, 40.0, 40.0, 40.0, 41.0, 80.0, 80.0, 80.0, 81.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("embed x", 1200, done=200) as bar:
        bar.advance(400)
        bar.advance(1)
        bar.advance(599)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "embed x: 600 of 1,200 texts (50%), 10 texts/s, 60 s left"
    assert lines[1].startswith("embed x: 1,200 of 1,200 texts (100%)")
    assert len(lines) == 2


def test_unknown_total(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    bar = Progress("read rows", None, unit="rows")
    bar.done = 5
    assert bar.line() == "read rows: 5 rows, 0.50 rows/s"


def test_the_package_imports_neither_torch_nor_jax_nor_datasets():
    code = "import sys, jdistill.store; assert not {'datasets', 'torch', 'jax', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_counted_items_come_in_order_and_quiet_work_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.counted(iter("abc"), "count", unit="letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err.startswith("count: 1 letters, ")
    with Progress("encode", 2, quiet=True) as bar:
        bar.advance(2)
    assert capsys.readouterr().err == ""


def test_lines_and_notes_beside_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = Progress("train", 4, unit="steps", lines=False)
    bar.print("a headline")
    bar.advance(2)
    bar.annotate("loss 0.5")
    bar.close()
    shown = capsys.readouterr().err
    assert bar.on_terminal
    assert "a headline\n" in shown
    assert "2.00/4.00" in shown
    assert "loss 0.5" in shown


def test_where_the_caller_prints_its_own_lines(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress("train", 2, lines=False) as bar:
        bar.print("step 1")
        bar.advance(2)
        bar.annotate("loss 0.5")
    assert capsys.readouterr().err == "step 1\n"
    assert not bar.on_terminal
