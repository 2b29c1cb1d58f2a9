"""The command line: quick help, exit codes, and nothing heavy imported before it is needed."""

import errno
import os
import subprocess
import sys

import pytest

from jdistill import __version__, cli


def test_help_is_one_screen_and_imports_neither_jax_nor_torch():
    code = (
        "import sys; from jdistill import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'jax', 'torch', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) <= 40
    for verb in ("demo", "embed", "train", "evaluate", "export", "show"):
        assert f"  {verb} " in done.stdout


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"jdistill {__version__}\n"


def test_no_verb_shows_the_help(capsys):
    assert cli.main([]) == 0
    assert "the pipeline, in order" in capsys.readouterr().out


def test_unknown_verb_is_the_users_mistake(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["distil"])
    assert end.value.code == 2
    assert "distil" in capsys.readouterr().err


def test_overrides_may_follow_options(monkeypatch):
    seen = []
    monkeypatch.setattr("jdistill.verbs.load_recipe", lambda config, overrides: seen.append(overrides))
    monkeypatch.setattr("jdistill.verbs.plan", lambda *_, **__: "")
    cli.main(["plan", "x.yaml", "a=1", "--topology", "h100:8", "b=2", "--length", "16", "c=3"])
    assert [sorted(overrides) for overrides in seen] == [["a=1", "b=2", "c=3"]]


@pytest.mark.parametrize("rest", [["--steps=3"], ["later"], ["a=1", "--json"]])
def test_what_is_no_override_is_the_users_mistake(capsys, rest):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "x.yaml", "--traceback", *rest])
    assert end.value.code == 2
    assert f"unrecognized arguments: {rest[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["export", "run", ""], ["evaluate", "run", " "], ["show", ""], ["convert", "", "x"]]
)
def test_an_empty_argument_is_not_the_current_folder(capsys, arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "is empty, expected a path or a name" in capsys.readouterr().err


def test_an_argument_that_is_not_utf8_is_the_users_mistake(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["export", "run", os.fsdecode(b"a\xff")])
    assert end.value.code == 2
    assert "is not UTF-8. Rename" in capsys.readouterr().err


def test_a_folder_that_is_gone(tmp_path):
    (tmp_path / "gone").mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from jdistill import cli; sys.exit(cli.main(['show', 'x.yaml']))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "gone", capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: the current folder no longer exists.")


def test_what_a_terminal_cannot_show_is_escaped(tmp_path):
    (tmp_path / "x.yaml").write_text("größe: 1\n", encoding="utf-8")
    code = "import jdistill.verbs as v; v.show = lambda *_, **__: 'größe'; from jdistill import cli; cli.run()"
    done = subprocess.run(
        [sys.executable, "-c", code, "show", "x.yaml"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, r"gr\xf6\xdfe"), done.stderr


def test_traceback_on_demand(tmp_path, capsys):
    with pytest.raises(ValueError, match="no such file"):
        cli.main(["train", "--traceback", str(tmp_path / "none.yaml")])
    assert cli.main(["train", str(tmp_path / "none.yaml")]) == 2


def test_missing_arguments_are_named_without_the_optional_ones(capsys):
    for arguments, missing in ((["export", "a"], "OUT"), (["train"], "CONFIG"), (["store", "info"], "STORE")):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
        message = capsys.readouterr().err.splitlines()
        command = " ".join(word for word in arguments if word != "a")
        assert message[0] == f"error: jdistill {command}: missing: {missing}"
        assert message[1].startswith(f"usage: jdistill {command} ")


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.ENOTDIR])
def test_errors_of_the_operating_system_take_one_line(monkeypatch, capsys, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), "/a/b")

    monkeypatch.setattr("jdistill.verbs.show", refuse)
    assert cli.main(["show", "x.yaml"]) == 2
    assert capsys.readouterr().err.startswith(f"error: /a/b: {os.strerror(number)}. ")
    with pytest.raises(OSError, match="/a/b"):
        cli.main(["show", "--traceback", "x.yaml"])
