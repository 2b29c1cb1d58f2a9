"""docs/extending.md, literally: another package in a run that is killed, resumed, exported and loaded again."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml

import jdistill
from jdistill import cli
from jdistill.checkpoint import complete_steps, load_student_params
from jdistill.config import UserError, parse
from jdistill.recipe import Recipe
from jdistill.student import make_student
from jdistill.verbs import load_recipe
from tests.contracts.test_docs import REST
from tests.verbs.conftest import sentences

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text()
KINDS = {"loss": "my_distill.losses:LogCosh", "pooling": "my_distill.poolings:Gate"}
EVALUATOR = "my_distill.evaluators:Uniformity"


@pytest.fixture
def package(tmp_path, monkeypatch) -> Iterator[Path]:
    """The page's files in a folder on the path, and gone from this process afterwards."""
    folder = tmp_path / "packages"
    files = re.findall(r"### `(my_distill/\w+\.py)`\n\n```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(files) == 4
    for name, content in [("my_distill/__init__.py", ""), *files]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_distill"]:
        del sys.modules[name]


def sections(job, run: Path, *, loss: str, pooling: str, evaluator: str, steps: int) -> dict:
    train = {**job.content["train"], "steps": steps, "save_every": 1, "evaluate_every": steps}
    return {
        "run": str(run),
        "student": {**job.content["student"], "pooling": ["mean", {"kind": pooling}]},
        "losses": {"align": {"kind": loss, "scale": 0.2}, "contrast": {"kind": "info_nce", "weight": 0.1}},
        "evaluate": {"spread": {"kind": evaluator, "path": f"{job.folder}/sts.parquet", "text": "sentence1"}},
        "train": train,
    }


def start(recipe: str, package: Path) -> subprocess.Popen[bytes]:
    """Train in a process of its own, as a user does."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "jdistill", "train", recipe],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{package}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill_after(recipe: str, run: Path, package: Path, step: int) -> None:
    """Kill a training once the checkpoint of a step is complete."""
    process = start(recipe, package)
    while process.poll() is None and (not (steps := complete_steps(run)) or steps[-1] < step):
        time.sleep(0.001)
    assert process.poll() is None, "it was to be killed before its end"
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parity
def test_trained_killed_resumed_exported_and_loaded(embedded, package, tmp_path, capsys):
    names = {"loss": KINDS["loss"], "pooling": KINDS["pooling"], "evaluator": EVALUATOR, "steps": 30}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(embedded.write("outside_whole.yaml", **sections(embedded, whole, **names)), package).wait() == 0
    recipe = embedded.write("outside_killed.yaml", **sections(embedded, killed, **names))
    kill_after(recipe, killed, package, 3)
    assert start(recipe, package).wait() == 0
    first, second = (jax.tree.leaves(load_student_params(run)) for run in (whole, killed))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    gate = load_student_params(killed)["pooling"]["1"]["linear"]["kernel"]
    assert np.abs(gate).max() > 0, "the pooling was trained"

    out = tmp_path / "out"
    capsys.readouterr()
    assert cli.main(["export", str(killed), str(out)]) == 0
    assert "equals the student" in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "name: Uniformity" in card.split("---")[1], "the evaluator is in the list of results"
    for said in ("spread/uniformity", "running `gate_pooling.py`", "trust_remote_code=True", KINDS["loss"], "mean + "):
        assert said in card

    assert cli.main(["evaluate", str(killed), str(out), "--config", recipe]) == 0
    assert "main metrics: spread/uniformity" in capsys.readouterr().out

    texts = sentences(7)
    trained = jdistill.load(killed).encode(texts)
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(out), device="cpu", trust_remote_code=True).encode(texts)
    np.testing.assert_allclose(peer, trained, atol=1e-5)
    from my_distill.poolings import Gate  # pyright: ignore

    np.testing.assert_allclose(jdistill.load(out, poolings=[Gate]).encode(texts), trained, atol=1e-6)
    with pytest.raises(UserError, match="pooling of another package is read if the recipe names it"):
        jdistill.load(out)
    again = load_recipe(recipe, [f"student.init={out}", "student.keep_layers=null"])
    _, taken = make_student(again.student, teacher_widths={}, key=jax.random.key(0))
    np.testing.assert_array_equal(taken["pooling"]["1"]["linear"]["kernel"], gate)


def test_an_exported_folder_imports_nothing(embedded, package, tmp_path):
    """In a process where the package could be imported, loading the folder by itself does not."""
    names = {"loss": "embed_cosine", "pooling": KINDS["pooling"], "evaluator": EVALUATOR, "steps": 1}
    content = sections(embedded, tmp_path / "run", **names) | {"losses": embedded.content["losses"], "evaluate": {}}
    assert cli.main(["train", embedded.write("outside_once.yaml", **content)]) == 0
    from jdistill.export.hf import export_model

    model = jdistill.load(tmp_path / "run")
    export_model(model.student, model.params, tmp_path / "out")
    program = (
        "import sys, jdistill\ntry:\n    jdistill.load(sys.argv[1])\nexcept ValueError as error:\n    print(error)\n"
    )
    program += "print([name for name in sys.modules if name.startswith(('my_distill', 'gate_pooling'))])\n"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{package}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "gate_pooling.GatePooling, which is not supported" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_by_the_names_of_entry_points(embedded, package, tmp_path, capsys):
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    info = package / "my_distill-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-distill\nVersion: 1.0\n")
    written = toml.replace("project.entry-points.", "").replace('"', "")
    (info / "entry_points.txt").write_text(written)
    (shown,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    parse(Recipe, REST | yaml.safe_load(shown), where="docs/extending.md")
    names = {"loss": "log_cosh", "pooling": "gate", "evaluator": "uniformity", "steps": 2}
    recipe = embedded.write("outside_named.yaml", **sections(embedded, tmp_path / "run", **names))
    assert cli.main(["show", recipe, "--check"]) == 0
    assert cli.main(["train", recipe]) == 0
    capsys.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "run")]) == 0
    assert "spread/uniformity" in capsys.readouterr().out
    pooling = jdistill.load(tmp_path / "run").student.config.pooling[1]
    assert (type(pooling).__name__, pooling.kind) == ("Gate", "gate")  # pyright: ignore


def test_a_pooling_without_a_class_of_torch_is_refused_before_training(embedded, package, tmp_path, capsys):
    path = package / "my_distill/poolings.py"
    path.write_text(path.read_text().replace("    module_file: ", "    other_file: "))
    names = {"loss": KINDS["loss"], "pooling": KINDS["pooling"], "evaluator": EVALUATOR, "steps": 1}
    recipe = embedded.write("outside_alone.yaml", **sections(embedded, tmp_path / "run", **names))
    for command in (["show", recipe, "--check"], ["train", recipe]):
        sys.modules.pop("my_distill.poolings", None)
        assert cli.main(command) == 2
        message = capsys.readouterr().err
        assert "cannot be exported: it names no class of torch" in message
        assert message.strip().count("\n") == 0
    assert cli.main(["train", recipe, "export=null"]) == 0
    assert cli.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
